use super::*;
use crate::format::wal_scan::tests::{Live, scan};
use crate::format::{WalHeaderState, WalScan};

fn mend(bytes: &[u8], hints: &WalHints) -> Option<MendedWal> {
    let read = |at: u64, into: &mut [u8]| -> Result<(), ()> {
        let from = usize::try_from(at).unwrap();
        into.copy_from_slice(&bytes[from..from + into.len()]);
        Ok(())
    };
    mend_wal(bytes.len() as u64, hints, read).unwrap()
}

/// The WAL that a variant is written as.
fn written(bytes: &[u8], mended: &MendedWal, variant: &WalVariant) -> Vec<u8> {
    let (mut resum, head) = Resum::new(&mended.header);
    let mut all = head.to_vec();
    for frame in mended.kept(variant) {
        let from = frame.page_at as usize;
        let mut page = bytes[from..from + mended.header.page_size as usize].to_vec();
        if let Some(patch) = frame.patch {
            page[patch.at as usize] = patch.value;
        }
        all.extend(resum.frame(frame.page, frame.commit_pages, &page));
        all.extend(page);
    }
    all
}

/// A WAL of commits of two or three frames each, in either byte order.
fn wal(page_size: u32, big_endian: bool) -> Vec<u8> {
    let live = Live::new(page_size);
    for _ in 0..12 {
        live.commit(page_size / 1000 + 2);
    }
    let wal = live.wal();
    if !big_endian {
        return wal;
    }
    // Another machine's: the same frames, summed in the other order.
    let mended = mend(&wal, &WalHints::default()).unwrap();
    let header = WalHeader { big_endian, ..mended.header };
    written(&wal, &MendedWal { header, ..mended.clone() }, &mended.whole().unwrap())
}

/// Asserts that the best variant is the WAL as it was, proven.
fn comes_back(was: &[u8], hurt: &[u8], hints: &WalHints, what: &str) {
    let mended = mend(hurt, hints).unwrap_or_else(|| panic!("{what}: nothing was made of it"));
    let best = mended.variants().into_iter().next().unwrap_or_else(|| panic!("{what}: {mended:?}"));
    assert!(best.proven && best.uncertain.is_empty(), "{what}: {best:?}");
    assert!(written(hurt, &mended, &best) == was, "{what}: not as it was");
}

fn frame_at(page_size: u32, index: usize) -> usize {
    WAL_HEADER_LEN + index * frame_len(page_size)
}

fn sound(found: &WalScan) -> bool {
    matches!(found.header, WalHeaderState::Ok(_)) && found.is_sound()
}

#[test]
fn a_sound_wal_has_nothing_to_mend_and_is_written_as_it_is() {
    for (page_size, big_endian) in [(512, false), (1024, true), (4096, false), (65_536, false)] {
        let was = wal(page_size, big_endian);
        assert!(sound(&scan(&was, None)));
        let mended = mend(&was, &WalHints::default()).unwrap();
        assert!(!mended.is_worth_mending() && mended.variants().is_empty() && !mended.header_hurt);
        assert!(written(&was, &mended, &mended.whole().unwrap()) == was);
    }
}

#[test]
fn a_header_is_rebuilt_whatever_became_of_it() {
    for (page_size, big_endian) in [(512, false), (1024, true), (4096, false), (65_536, true)] {
        let was = wal(page_size, big_endian);
        for damage in [vec![0; 32], vec![0xa5; 32]] {
            let mut hurt = was.clone();
            hurt[..32].copy_from_slice(&damage);
            comes_back(&was, &hurt, &WalHints::default(), "all of it");
        }
        for at in 0..32 {
            let mut hurt = was.clone();
            hurt[at] ^= 0x41;
            comes_back(&was, &hurt, &WalHints::default(), &format!("byte {at}"));
        }
    }
}

#[test]
fn every_field_of_every_frame_but_the_last_can_be_hurt_at_no_loss() {
    for big_endian in [false, true] {
        let was = wal(1024, big_endian);
        let frames = (was.len() - 32) / frame_len(1024);
        for index in 0..frames - 1 {
            for field in [0..4, 4..8, 8..16, 16..24, 8..24, 0..24] {
                let mut hurt = was.clone();
                let at = frame_at(1024, index);
                hurt[at + field.start..at + field.end].iter_mut().for_each(|byte| *byte = !*byte);
                comes_back(&was, &hurt, &WalHints::default(), &format!("frame {index}, bytes {field:?}"));
            }
        }
    }
}

#[test]
fn a_byte_of_any_page_is_put_right_and_a_bit_that_cannot_be_told_is_never_called_proven() {
    let was = wal(512, false);
    let frames = (was.len() - 32) / frame_len(512);
    let (mut proven, mut likely, mut open) = (0, 0, 0);
    for index in 0..frames - 1 {
        for offset in (index % 41..512).step_by(41) {
            let at = frame_at(512, index) + FRAME_HEADER_LEN + offset;
            for damage in [1, 0x10, 0x80, 0x5a] {
                let mut hurt = was.clone();
                hurt[at] ^= damage;
                let mended = mend(&hurt, &WalHints::default()).unwrap();
                let frame = mended.frames.get(index).copied();
                let patch = Patch { at: offset as u32, value: was[at] };
                match frame.map(|frame| (frame.state, frame.patch)) {
                    Some((FrameState::ByteHurt, found)) => {
                        assert_eq!(found, Some(patch), "frame {index}, byte {offset} by {damage:#x}");
                        proven += 1;
                    }
                    Some((FrameState::Unproven, Some(found))) => likely += u32::from(found == patch),
                    _ => open += 1,
                }
                // A page is four words of one order: in the lowest half of each, everything can be told.
                assert!(
                    offset % 4 >= 2 || damage != 1 || frame.unwrap().state == FrameState::ByteHurt,
                    "{index} {offset}"
                );
            }
        }
    }
    println!("put right for certain {proven}, in all likelihood {likely}, not told {open}");
    assert!(proven > open);
}

#[test]
fn several_wounds_in_one_file_are_all_mended() {
    let mut hurt = wal(1024, false);
    let was = hurt.clone();
    hurt[..32].fill(0);
    for (index, offset) in [(0, 17), (3, 500), (5, 9), (6, 1000), (9, 804)] {
        hurt[frame_at(1024, index) + offset] ^= 0x10;
    }
    comes_back(&was, &hurt, &WalHints::default(), "all at once");
}

/// A frame behind one that commits nothing: in the middle of a transaction.
fn inside_a_transaction(mended: &MendedWal) -> usize {
    let frames = &mended.frames;
    (frames.len() / 2..frames.len() - 4).find(|at| frames[at - 1].commit_pages == 0).unwrap()
}

#[test]
fn a_page_that_is_garbage_is_uncertain_and_the_commits_behind_it_are_kept() {
    let was = wal(1024, false);
    let whole = mend(&was, &WalHints::default()).unwrap();
    let index = inside_a_transaction(&whole);
    let mut hurt = was.clone();
    let page = frame_at(1024, index) + FRAME_HEADER_LEN;
    hurt[page + 100..page + 612].fill(0x5a);
    let mended = mend(&hurt, &WalHints::default()).unwrap();
    assert_eq!(mended.frames.len(), whole.frames.len());
    assert_eq!(mended.frames[index].state, FrameState::PageHurt);
    let variants = mended.variants();
    let best = &variants[0];
    assert_eq!(best.transactions, whole.transactions(whole.frames.len()));
    assert!(!best.proven);
    let superseded = whole.frames[index + 1..].iter().any(|frame| frame.page == whole.frames[index].page);
    assert_eq!(best.uncertain.is_empty(), superseded, "{best:?}");
    // What is put together is a WAL that SQLite reads to its end, without the garbage.
    let made = written(&hurt, &mended, best);
    let found = scan(&made, None);
    assert!(sound(&found) && found.first_bad.is_none());
    assert_eq!(found.last_commit as usize, whole.frames.len() - 1);
    assert_eq!(found.database_pages, whole.frames.last().unwrap().commit_pages);
}

#[test]
fn a_zeroed_range_over_several_frames_is_a_gap_and_the_chain_goes_on_behind_it() {
    let was = wal(1024, false);
    let whole = mend(&was, &WalHints::default()).unwrap();
    let index = inside_a_transaction(&whole);
    let mut hurt = was.clone();
    hurt[frame_at(1024, index) + 200..frame_at(1024, index + 2) + 300].fill(0);
    let mended = mend(&hurt, &WalHints::default()).unwrap();
    assert_eq!(mended.frames.len(), whole.frames.len());
    let states: Vec<_> = mended.frames[index..index + 4].iter().map(|frame| frame.state).collect();
    // The third one's header is gone with the gap; the fourth cannot be proven, because the sum before it is not known.
    assert_eq!(states, [FrameState::PageHurt, FrameState::Lost, FrameState::Lost, FrameState::Unproven]);
    assert!(mended.frames[index + 4..].iter().all(|frame| frame.state == FrameState::Sound));
    assert_eq!(mended.variants()[0].lost, 2);
    assert!(sound(&scan(&written(&hurt, &mended, &mended.variants()[0]), None)));
}

#[test]
fn what_may_be_an_abandoned_end_is_taken_only_when_the_index_vouches_for_it() {
    let was = wal(1024, false);
    let whole = mend(&was, &WalHints::default()).unwrap();
    let behind_commit = (4..).find(|at| whole.frames[at - 1].commit_pages != 0).unwrap();
    let mut hurt = was.clone();
    let page = frame_at(1024, behind_commit) + FRAME_HEADER_LEN;
    hurt[page + 100..page + 612].fill(0x5a);
    let alone = mend(&hurt, &WalHints::default()).unwrap();
    assert!(!alone.is_worth_mending());
    assert!(alone.commits_left_alone > 0 && !alone.whole().unwrap().proven);
    let salts = (whole.header.salt1, whole.header.salt2);
    let vouched = WalHints { index: Some((salts, whole.frames.len() as u32)), ..WalHints::default() };
    assert_eq!(mend(&hurt, &vouched).unwrap().frames.len(), whole.frames.len());
    let of_another = WalHints { index: Some(((1, 2), 1000)), ..WalHints::default() };
    assert!(!mend(&hurt, &of_another).unwrap().is_worth_mending());
}

#[test]
fn an_older_generation_is_never_taken() {
    let live = Live::new(1024);
    for _ in 0..20 {
        live.commit(3);
    }
    live.restart();
    live.commit(3);
    live.commit(3);
    let was = live.wal();
    let taken = scan(&was, None).last_commit as usize;
    let now = &was[..frame_at(1024, taken)];
    assert!(now.len() < was.len(), "nothing of the older generation is left");
    for range in [0..32, 0..8, 40..44, 32 + 20..32 + 24] {
        let mut hurt = was.clone();
        hurt[range.clone()].iter_mut().for_each(|byte| *byte = !*byte);
        comes_back(now, &hurt, &WalHints::default(), &format!("{range:?}"));
    }
    // Neither header nor first frame: what is left to see is the older generation, or may be.
    let mut hurt = was.clone();
    hurt[..frame_at(1024, 1) + 500].fill(0);
    if let Some(mended) = mend(&hurt, &WalHints::default()) {
        assert!(mended.variants().is_empty(), "{mended:?}");
    }
    let header = mend(&was, &WalHints::default()).unwrap().header;
    let index = Some(((header.salt1, header.salt2), taken as u32));
    let mended = mend(&hurt, &WalHints { index, page_size: Some(1024), ..WalHints::default() }).unwrap();
    assert_eq!(mended.frames.len(), taken, "the index tells the generation");
}

#[test]
fn what_a_rolled_back_transaction_spilled_is_not_taken_for_commits() {
    let live = Live::new(1024);
    live.commit(2);
    live.spill_and_roll_back();
    live.commit(2);
    let was = live.wal();
    let read = scan(&was, None);
    assert!(read.stranded_frames > 0);
    let mended = mend(&was, &WalHints::default()).unwrap();
    assert_eq!((mended.frames.len(), mended.is_worth_mending()), (read.last_commit as usize, false));
}

#[test]
fn a_torn_tail_ends_the_wal_where_sqlite_ends_it() {
    let was = wal(1024, false);
    for cut in [1, 500, 1048, 1049, 3000] {
        let hurt = &was[..was.len() - cut];
        let mended = mend(hurt, &WalHints::default()).unwrap();
        assert_eq!(mended.frames.len(), scan(hurt, None).last_commit as usize);
        assert!(!mended.is_worth_mending());
    }
    for len in [0, 10, 32, 33] {
        assert!(mend(&was[..len], &WalHints::default()).is_none_or(|mended| !mended.is_worth_mending()), "{len}");
    }
}

#[test]
fn one_frame_behind_a_bad_header_is_enough_when_the_main_file_tells_the_page_size() {
    let was = wal(1024, false);
    let whole = mend(&was, &WalHints::default()).unwrap();
    let first = whole.frames.iter().position(|frame| frame.commit_pages != 0).unwrap() + 1;
    let was = &was[..frame_at(1024, first)];
    let mut hurt = was.to_vec();
    hurt[..32].fill(0xff);
    comes_back(was, &hurt, &WalHints { page_size: Some(1024), ..WalHints::default() }, "one commit");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    #[test]
    fn no_bytes_make_it_panic(
        bytes in proptest::collection::vec(0u8.., 0..6000), page_size in proptest::option::of(0u32..), index in proptest::option::of(((0u32.., 0u32..), 0u32..)),
    ) {
        let page_size = page_size.map(|size| 512 << (size % 8));
        let hints = WalHints { page_size, index, database_pages: 7 };
        if let Some(mended) = mend(&bytes, &hints) {
            mended.variants().iter().for_each(|variant| drop(mended.kept(variant)));
        }
    }

    /// Whatever is damaged: what is called proven *is* what was written, and what is written is read to its end.
    #[test]
    fn what_is_called_proven_is_what_was_written(
        wounds in proptest::collection::vec((0usize..1 << 20, 1usize..3000, 0u8..), 1..4), cut in proptest::option::of(0usize..40_000), vouched: bool,
    ) {
        use std::sync::OnceLock;
        static WAL: OnceLock<Vec<u8>> = OnceLock::new();
        let was = WAL.get_or_init(|| wal(1024, false));
        let whole = mend(was, &WalHints::default()).unwrap();
        let mut hurt = was.clone();
        for (at, length, xor) in wounds {
            let from = at % hurt.len();
            let to = (from + length).min(hurt.len());
            // Garbage, zeros, or one byte.
            match xor % 3 {
                0 => hurt[from..to].fill(0),
                1 => hurt[from] ^= xor.max(1),
                _ => hurt[from..to].iter_mut().enumerate().for_each(|(n, byte)| *byte = byte.wrapping_mul(31).wrapping_add(xor ^ n as u8)),
            }
        }
        if let Some(cut) = cut { hurt.truncate(hurt.len().saturating_sub(cut)); }
        let index = vouched.then_some(((whole.header.salt1, whole.header.salt2), whole.frames.len() as u32));
        let hints = WalHints { page_size: Some(1024), index, database_pages: 10 };
        if let Some(mended) = mend(&hurt, &hints) {
            for variant in mended.variants() {
                let made = written(&hurt, &mended, &variant);
                if made.len() == WAL_HEADER_LEN { continue; }
                let found = scan(&made, None);
                proptest::prop_assert!(sound(&found) && found.first_bad.is_none(), "{:?}", found);
                if variant.proven {
                    proptest::prop_assert!(made == was[..made.len()], "{:?}", variant);
                }
            }
            for (frame, was) in mended.frames.iter().zip(&whole.frames).filter(|(frame, _)| frame.state.is_proven()) {
                proptest::prop_assert_eq!((frame.page, frame.commit_pages), (was.page, was.commit_pages));
            }
        }
    }
}
