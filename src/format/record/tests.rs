use super::*;

fn check(payload: &[u8]) -> Result<(), RecordError> {
    let sound = record_is_sound(payload, payload.len() as u32);
    assert_eq!(sound.map(|_| ()), Record::parse(payload).and_then(|record| record.check(payload.len() as u32)));
    sound.map(|_| ())
}

#[test]
fn what_is_wrong_is_told() {
    assert_eq!(check(&[]), Err(RecordError::Empty));
    assert_eq!(check(&[0]), Err(RecordError::Empty));
    assert_eq!(check(&[1]), Err(RecordError::Empty));
    assert_eq!(check(&[2, 0]), Ok(()));
    assert_eq!(check(&[2, 1, 9]), Ok(()));
    assert_eq!(check(&[2, 1]), Err(RecordError::Short { needed: 3, payload: 2 }));
    assert_eq!(check(&[2, 0, 7]), Err(RecordError::Long { needed: 2, payload: 3 }));
    assert_eq!(check(&[2, 10]), Err(RecordError::ReservedType(10)));
    assert_eq!(check(&[3, 11, 15, b'a']), Err(RecordError::ReservedType(11)));
    assert_eq!(check(&[4, 0]), Err(RecordError::HeaderTooLong(4)));
    assert_eq!(check(&[2, 0x81, 0]), Err(RecordError::TypeCrossesHeader));
    assert_eq!(check(&[0x86, 0x80, 4, 0]), Err(RecordError::HeaderTooLong(98_308)));
    let huge = [19, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255];
    assert!(matches!(check(&huge), Err(RecordError::Short { .. })));
}

#[test]
fn a_header_that_goes_on_elsewhere_is_unknown() {
    assert_eq!(record_is_sound(&[9, 0, 0], 9), Ok(Soundness::Unknown));
    assert_eq!(record_is_sound(&[9, 0, 0], 8), Err(RecordError::HeaderTooLong(9)));
    let record = Record::parse(&[9, 0, 0]).unwrap();
    let columns: Vec<_> = record.columns().map(|column| column.is_ok()).collect();
    assert_eq!(columns, [true, true, false]);
}

#[test]
fn every_type_is_read() {
    let mut payload = vec![13, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 17];
    payload.extend([0x80, 0xff, 0xfe, 0x7f, 0, 0, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfb]);
    payload.extend(i64::MIN.to_be_bytes());
    payload.extend(1.5f64.to_be_bytes());
    payload.extend(b"bxy");
    let record = Record::parse(&payload).unwrap();
    let values: Vec<_> = record.values().map(Result::unwrap).collect();
    let (int, real) = (Value::Integer, Value::Real);
    let ints = [int(-128), int(-2), int(0x7f_0000), int(i64::from(i32::MIN)), int(-5), int(i64::MIN)];
    assert_eq!(values[0], Value::Null);
    assert_eq!(values[1..7], ints);
    assert_eq!(values[7..], [real(1.5), int(0), int(1), Value::Blob(b"b"), Value::Text(b"xy")]);
    assert_eq!(check(&payload), Ok(()));

    let cut = Record::parse(&payload[..payload.len() - 1]).unwrap();
    let found: Vec<_> = cut.values().map(|value| value.is_ok()).collect();
    assert_eq!(found.iter().filter(|found| !**found).count(), 1, "only the last column is lost");
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..300), payload in 0u32..) {
        let sound = record_is_sound(&bytes, bytes.len() as u32);
        let _ = record_is_sound(&bytes, payload);
        if let Ok(record) = Record::parse(&bytes) {
            proptest::prop_assert_eq!(sound.is_ok(), record.check(bytes.len() as u32).is_ok());
            proptest::prop_assert!(record.values().count() <= bytes.len() + 1);
            if sound.is_ok() {
                proptest::prop_assert!(record.values().all(|value| value.is_ok()));
            }
        }
    }
}
