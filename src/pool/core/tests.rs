//! One promise a test; what no single story shows is in `pool/model_tests.rs`.

use super::*;
use crate::pool::{BreakerParams, RateParams, Retry};

type Pool = Core<u32, u32>;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn pool(max_size: u32) -> Pool {
    // A breaker that stays out of the way, and no reports: each has tests of its own.
    let breaker = BreakerParams { failures: 1000, ..BreakerParams::default() };
    Core::new(Params { max_size, leak_after: None, breaker, ..Params::default() }, 3, ms(0))
}

fn acquire(pool: &mut Pool, now: Duration) -> (Acquire<u32>, Effects<u32, u32>) {
    pool.acquire(now, Location::caller(), || 1)
}

fn wait(pool: &mut Pool, now: Duration) -> (WaiterId, Effects<u32, u32>) {
    match acquire(pool, now) {
        (Acquire::Wait(waiter), effects) => (waiter, effects),
        (other, _) => panic!("{other:?}"),
    }
}

fn ticket(order: Order<u32>) -> Ticket {
    match order {
        Order::Connect(ticket) | Order::Knock(ticket) | Order::Look(ticket, _) | Order::Check(ticket, _) => ticket,
    }
}

fn only(mut effects: Effects<u32, u32>) -> Order<u32> {
    assert_eq!(effects.orders.len(), 1, "{effects:?}");
    effects.orders.remove(0)
}

fn lease(pool: &mut Pool, connection: u32, now: Duration) -> Lease<u32> {
    let (waiter, effects) = wait(pool, now);
    let _ = pool.connected(ticket(only(effects)), connection, now);
    pool.collect(waiter).unwrap().unwrap()
}

fn state(pool: &Pool) -> State {
    pool.status(ms(0)).state
}

/// A pool of `max_size` whose first connect failed at `now`, and whose second look, too.
fn down(max_size: u32, now: Duration) -> Pool {
    let mut pool = pool(max_size);
    let (waiter, effects) = wait(&mut pool, now);
    let look = only(pool.connect_failed(ticket(only(effects)), now));
    assert!(matches!(look, Order::Look(_, None)));
    assert_eq!(state(&pool), State::Degraded);
    let effects = pool.connect_failed(ticket(look), now);
    assert_eq!(state(&pool), State::Recovering);
    assert_eq!(effects.wake, [1]);
    assert!(matches!(pool.collect(waiter), Some(Err(Refusal::Down { .. }))));
    pool
}

#[test]
fn callers_are_served_in_the_order_they_came() {
    let mut pool = pool(1);
    let held = lease(&mut pool, 7, ms(0));
    let (first, _) = wait(&mut pool, ms(1));
    let (second, _) = wait(&mut pool, ms(2));
    let _ = pool.give_back(held, Returned::Good, ms(3));
    assert!(pool.collect(second).is_none());
    let held = pool.collect(first).unwrap().unwrap();
    let _ = pool.give_back(held, Returned::Good, ms(4));
    assert_eq!(pool.collect(second).unwrap().unwrap().connection, 7);
}

#[test]
fn what_a_waiter_was_given_and_never_collected_goes_to_the_next() {
    let mut pool = pool(1);
    let held = lease(&mut pool, 7, ms(0));
    let (first, _) = wait(&mut pool, ms(1));
    let (second, _) = wait(&mut pool, ms(1));
    let _ = pool.give_back(held, Returned::Good, ms(2));
    assert_eq!(pool.cancel(first, ms(3)).wake, [1]);
    assert_eq!(pool.collect(second).unwrap().unwrap().connection, 7);
}

#[test]
fn a_caller_that_gives_up_does_not_stop_the_connect_it_caused() {
    let mut pool = pool(1);
    let (waiter, effects) = wait(&mut pool, ms(0));
    let effects_of_cancel = pool.cancel(waiter, ms(1));
    assert!(effects_of_cancel.aborted.is_empty());
    let _ = pool.connected(ticket(only(effects)), 7, ms(2));
    assert!(matches!(acquire(&mut pool, ms(3)), (Acquire::Ready(_), _)));
}

#[test]
fn one_broken_connection_costs_one_look_and_no_outage() {
    let mut pool = pool(4);
    let held = lease(&mut pool, 1, s(1));
    let other = lease(&mut pool, 2, s(1));
    let _ = pool.give_back(other, Returned::Good, s(1));
    let effects = pool.give_back(held, Returned::Broken, s(2));
    assert_eq!(effects.close, [1]);
    assert_eq!(state(&pool), State::Degraded);
    assert!(matches!(acquire(&mut pool, s(2)), (Acquire::Ready(_), _)), "what stands serves on");
    let _ = pool.connected(ticket(only(effects)), 3, s(2));
    assert_eq!(state(&pool), State::Healthy);
}

#[test]
fn connections_that_break_late_do_not_raise_the_alarm_again() {
    let mut pool = pool(4);
    let held: Vec<_> = (1..4).map(|connection| lease(&mut pool, connection, s(1))).collect();
    let mut held = held.into_iter();
    let look = only(pool.give_back(held.next().unwrap(), Returned::Broken, s(2)));
    let _ = pool.connected(ticket(look), 9, s(2));
    for late in held {
        assert!(pool.give_back(late, Returned::Broken, s(3)).orders.is_empty());
        assert_eq!(state(&pool), State::Healthy);
    }
}

#[test]
fn down_a_caller_causes_one_look_in_a_second_and_others_fail_fast() {
    let mut pool = down(4, s(1));
    let (answer, _) = acquire(&mut pool, s(1));
    let Acquire::Refused(Refusal::Down { retry_after }) = answer else { panic!("{answer:?}") };
    assert!(retry_after <= s(1), "a knock is due by then: {retry_after:?}");
    // The look of the caller itself; a second caller joins it.
    let (first, effects) = wait(&mut pool, s(3));
    let look = only(effects);
    let (second, effects) = wait(&mut pool, s(3));
    assert!(effects.orders.is_empty());
    let effects = pool.connect_failed(ticket(look), s(3));
    assert_eq!(effects.wake.len(), 2);
    for waiter in [first, second] {
        assert!(matches!(pool.collect(waiter), Some(Err(Refusal::Down { .. }))));
    }
}

#[test]
fn a_knock_that_is_answered_brings_the_attempt_forward_on_its_own_connection() {
    let mut pool = down(4, s(1));
    let mut looked = s(1);
    let (knock, now) = loop {
        let now = pool.next_due().unwrap();
        assert!(now <= looked + s(1), "a second without a look");
        match only(pool.tick(now)) {
            Order::Knock(knock) => break (knock, now),
            // A scheduled attempt came before. It fails as well.
            look => drop(pool.connect_failed(ticket(look), now)),
        }
        looked = now;
    };
    let Order::Look(look, Some(5)) = only(pool.connected(knock, 5, now)) else { panic!("no look") };
    let effects = pool.connected(look, 5, now);
    assert_eq!(state(&pool), State::Healthy);
    assert!(effects.close.is_empty());
    assert_eq!(pool.status(now).budget, 1, "it grows from what stands");
}

#[test]
fn ten_failed_attempts_are_a_round_and_rounds_go_on_for_ever() {
    let mut pool = down(1, ms(0));
    let mut rounds = Vec::new();
    let mut attempts = 1;
    while rounds.len() < 3 {
        let now = pool.next_due().unwrap();
        let order = only(pool.tick(now));
        attempts += u32::from(matches!(order, Order::Look(..)));
        let effects = pool.connect_failed(ticket(order), now);
        if effects.events.contains(&Event::State { from: State::Recovering, to: State::Cooldown }) {
            rounds.push((attempts, pool.status(now).current_retry_delay_ms));
            attempts = 0;
        }
    }
    assert_eq!(rounds, [(10, Some(300_000)); 3]);
}

#[test]
fn a_pool_grows_back_by_doubling() {
    let mut pool = pool(16);
    let mut orders = vec![only(pool.force_reopen(s(1)))];
    for _ in 0..16 {
        let _ = wait(&mut pool, s(1));
    }
    let mut rounds = Vec::new();
    let mut connection = 0;
    while !orders.is_empty() {
        rounds.push(orders.len());
        let mut next = Vec::new();
        for order in orders {
            connection += 1;
            next.extend(pool.connected(ticket(order), connection, s(1)).orders);
        }
        orders = next;
    }
    assert_eq!(rounds, [1, 1, 2, 4, 8]);
}

#[test]
fn a_connect_that_never_ends_frees_its_place_and_counts_as_failed() {
    let mut pool = pool(1);
    let (_, effects) = wait(&mut pool, ms(0));
    let lost = ticket(only(effects));
    assert_eq!(pool.next_due(), Some(s(10)));
    let effects = pool.tick(s(10));
    assert_eq!(effects.aborted, [lost.number()]);
    assert_eq!(state(&pool), State::Degraded);
    assert_eq!(pool.connected(lost, 7, s(11)).close, [7], "too late");
}

#[test]
fn reopening_throws_away_what_was_open_and_undoes_closing() {
    let mut pool = pool(4);
    let held = lease(&mut pool, 1, ms(0));
    let idle = lease(&mut pool, 2, ms(0));
    let _ = pool.give_back(idle, Returned::Good, ms(0));
    assert_eq!(pool.close(s(1)).close, [2]);
    assert!(matches!(acquire(&mut pool, s(1)), (Acquire::Refused(Refusal::Closed), _)));
    assert!(!pool.is_drained());
    let look = only(pool.force_reopen(s(2)));
    assert_eq!(pool.give_back(held, Returned::Good, s(2)).close, [1], "of before");
    let _ = pool.connected(ticket(look), 3, s(2));
    assert_eq!(state(&pool), State::Healthy);
}

#[test]
fn limits_of_age_and_of_idleness_are_kept() {
    let mut pool = pool(2);
    // No look comes between, which would close the idle connection to have room.
    let _ = pool.set_params(Params { health_interval: s(1_000_000), ..pool.params().clone() }, ms(0));
    let old = lease(&mut pool, 1, ms(0));
    let unused = lease(&mut pool, 2, ms(0));
    let _ = pool.give_back(unused, Returned::Good, ms(0));
    let (mut now, mut closed) = (ms(0), Vec::new());
    while closed.is_empty() {
        now = pool.next_due().unwrap();
        closed = pool.tick(now).close;
    }
    assert_eq!(closed, [2]);
    assert!(now <= s(600));
    // Older than it may get, it is not kept when it comes back.
    assert_eq!(pool.give_back(old, Returned::Good, s(1800)).close, [1]);
}

#[test]
fn a_leak_is_told_once_with_the_place_that_took_it() {
    let mut pool: Pool = Core::new(Params::default(), 1, ms(0));
    let held = lease(&mut pool, 1, ms(0));
    let leaks = |effects: Effects<u32, u32>| {
        let leak = |event| if let Event::Leak { place, held } = event { Some((place.file(), held)) } else { None };
        effects.events.into_iter().filter_map(leak).collect::<Vec<_>>()
    };
    assert_eq!(leaks(pool.tick(s(59))), []);
    assert_eq!(leaks(pool.tick(s(60))), [(file!(), s(60))]);
    assert_eq!(leaks(pool.tick(s(61))), []);
    let _ = pool.give_back(held, Returned::Good, s(62));
}

#[test]
fn parameters_change_without_dropping_what_is_in_use() {
    let mut pool = pool(3);
    let held: Vec<_> = (1..4).map(|connection| lease(&mut pool, connection, ms(0))).collect();
    let retry = Retry::default();
    let smaller = Params { max_size: 1, retry, ..pool.params().clone() };
    assert!(pool.set_params(smaller, ms(1)).close.is_empty());
    let mut closed = Vec::new();
    for lease in held {
        closed.extend(pool.give_back(lease, Returned::Good, ms(2)).close);
    }
    assert_eq!(closed, [1, 2]);
}

#[test]
fn what_lay_idle_is_checked_in_its_turn_and_lies_idle_no_longer_for_it() {
    let mut pool = pool(3);
    let held = [lease(&mut pool, 1, ms(0)), lease(&mut pool, 2, ms(0))];
    for held in held {
        let _ = pool.give_back(held, Returned::Good, s(1));
    }
    let (mut checked, mut closed, mut now) = (Vec::new(), Vec::new(), ms(0));
    while now < s(600) {
        now = pool.next_due().unwrap();
        let mut effects = pool.tick(now);
        closed.append(&mut effects.close);
        while let Some(order) = effects.orders.pop() {
            effects = match order {
                Order::Check(ticket, connection) => {
                    checked.push(connection);
                    pool.connected(ticket, connection, now)
                }
                look => pool.connected(ticket(look), 9, now),
            };
            closed.append(&mut effects.close);
        }
    }
    closed.retain(|connection| *connection != 9);
    assert!(checked.contains(&1) && checked.contains(&2), "{checked:?}");
    closed.sort_unstable();
    assert_eq!(closed, [1, 2]);
}

#[test]
fn a_dead_connection_found_before_its_use_costs_a_look_and_is_no_failed_call() {
    let breaker = BreakerParams { failures: 1, ..BreakerParams::default() };
    let mut pool: Pool = Core::new(Params { max_size: 4, breaker, ..Params::default() }, 3, ms(0));
    let held = lease(&mut pool, 1, ms(0));
    assert!(!pool.is_doubtful(&held, ms(499)), "it has just worked");
    assert!(pool.is_doubtful(&held, ms(500)));
    let other = lease(&mut pool, 2, ms(0));
    let look = only(pool.give_back(held, Returned::Stale, ms(600)));
    assert_eq!((state(&pool), pool.status(ms(600)).breaker), (State::Degraded, BreakerState::Closed));
    let _ = pool.connected(ticket(look), 3, ms(600));
    // Nor is one that broke when the server went away, and is noticed after it came back.
    let _ = pool.give_back(other, Returned::Broken, ms(700));
    assert_eq!((state(&pool), pool.status(ms(700)).breaker), (State::Healthy, BreakerState::Closed));
}

#[test]
fn a_connect_is_given_up_by_what_connects_took_and_more_patiently_after_each_failure() {
    let mut pool = pool(10);
    for connection in 0..5 {
        let (_, effects) = wait(&mut pool, ms(0));
        let _ = pool.connected(ticket(only(effects)), connection, ms(400));
    }
    let mut now = s(1);
    let mut limits = Vec::new();
    let mut order = only(pool.force_reopen(now));
    while limits.len() < 6 {
        let due = pool.pending[0].expires;
        if !matches!(order, Order::Knock(_)) {
            limits.push((due - now).as_millis());
        }
        now = due;
        let mut effects = pool.tick(now);
        while effects.orders.is_empty() {
            now = pool.next_due().unwrap();
            effects = pool.tick(now);
        }
        order = only(effects);
    }
    // An attempt out of turn has the patience of the last one.
    limits.dedup();
    assert_eq!(limits[..4], [1600, 3200, 6400, 10_000], "{limits:?}");
}

#[test]
fn the_queue_has_an_end() {
    let mut pool: Pool = Core::new(Params { max_size: 1, max_waiters: 1, ..Params::default() }, 1, ms(0));
    let _ = wait(&mut pool, ms(0));
    assert!(matches!(acquire(&mut pool, ms(0)), (Acquire::Refused(Refusal::TooManyWaiters), _)));
}

#[test]
fn a_breaker_that_half_opens_is_answered_by_the_pool_itself() {
    let rate = RateParams { min_calls: 1, slow_after: s(1), ..RateParams::default() };
    let breaker = BreakerParams { rate: Some(rate), open_for: s(5), ..BreakerParams::default() };
    let mut pool: Pool = Core::new(Params { breaker, leak_after: None, ..Params::default() }, 1, ms(0));
    let slow = lease(&mut pool, 1, ms(0));
    let _ = pool.give_back(slow, Returned::Good, s(2));
    assert_eq!(pool.status(s(2)).breaker, BreakerState::Open);
    assert_eq!(pool.next_due(), Some(s(7)), "the next look at a server that seems well is due much later");
    let look = only(pool.tick(s(7)));
    let _ = pool.connected(ticket(look), 2, s(7));
    assert_eq!(pool.status(s(7)).breaker, BreakerState::Closed);
}
