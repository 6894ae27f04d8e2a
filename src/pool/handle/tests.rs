//! The pool on a clock that jumps to whatever is due next, against a server that is played here; what real sockets do is in
//! `tests/pool`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::{Instant, sleep};

use super::*;
use crate::pool::{BreakerState, State};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Up,
    Refuses,
    Hangs,
    Slow(Duration),
    /// What it was when the connect began is what it answers.
    RefusesSlowly(Duration),
}

#[derive(Debug)]
struct Server {
    mode: Mutex<Mode>,
    /// Connections and connects of now, and the most there were.
    open: AtomicUsize,
    most: AtomicUsize,
    made: AtomicUsize,
    /// Counts restarts: connections of before are dead.
    life: AtomicUsize,
}

struct Connection {
    server: Arc<Server>,
    number: usize,
    life: usize,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.server.open.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(&'static str);

struct Played(Arc<Server>);

impl Server {
    fn new() -> Arc<Server> {
        let zero = || AtomicUsize::new(0);
        Arc::new(Server { mode: Mutex::new(Mode::Up), open: zero(), most: zero(), made: zero(), life: zero() })
    }

    fn pool(self: &Arc<Server>, params: Params) -> Pool<Played> {
        Pool::new("played", Played(Arc::clone(self)), params)
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn restart(&self) {
        self.life.fetch_add(1, Ordering::SeqCst);
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    async fn answer(&self) -> Result<(), Failed> {
        let mode = *self.mode.lock().unwrap();
        match mode {
            Mode::Up => Ok(()),
            Mode::Refuses => Err(Failed("refused")),
            Mode::Hangs => std::future::pending().await,
            Mode::Slow(time) => {
                sleep(time).await;
                Ok(())
            }
            Mode::RefusesSlowly(time) => {
                sleep(time).await;
                Err(Failed("refused"))
            }
        }
    }
}

impl Manager for Played {
    type Connection = Connection;
    type Error = Failed;

    async fn connect(&self) -> Result<Connection, Failed> {
        let server = Arc::clone(&self.0);
        let open = server.open.fetch_add(1, Ordering::SeqCst) + 1;
        server.most.fetch_max(open, Ordering::SeqCst);
        let life = server.life.load(Ordering::SeqCst);
        let number = server.made.fetch_add(1, Ordering::SeqCst);
        // From here on it counts, and dropping it takes it off again.
        let connection = Connection { server, number, life };
        self.0.answer().await?;
        Ok(connection)
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), Failed> {
        if connection.life != self.0.life.load(Ordering::SeqCst) {
            return Err(Failed("reset by peer"));
        }
        self.0.answer().await
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn sized(max_size: u32) -> Params {
    Params { max_size, ..Params::default() }
}

/// A pool with `size` idle connections that were proven just now.
async fn warm(server: &Arc<Server>, params: Params, size: usize) -> Pool<Played> {
    let pool = server.pool(params);
    let mut held = Vec::new();
    for _ in 0..size {
        held.push(pool.acquire().await.unwrap());
    }
    drop(held);
    assert_eq!(pool.status().idle, size);
    pool
}

#[tokio::test(start_paused = true)]
async fn callers_are_served_in_the_order_they_came_and_never_on_more_than_max_size() {
    let server = Server::new();
    let pool = server.pool(sized(3));
    let order = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..30)
        .map(|caller| {
            let (pool, order) = (pool.clone(), Arc::clone(&order));
            tokio::spawn(async move {
                let guard = pool.acquire().await.unwrap();
                order.lock().unwrap().push(caller);
                sleep(ms(10)).await;
                drop(guard);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), (0..30).collect::<Vec<_>>());
    assert_eq!(server.most.load(Ordering::SeqCst), 3);
    assert_eq!(server.made.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_told_why_and_holds_nobody_up() {
    let server = Server::new();
    let pool = server.pool(sized(1));
    let held = pool.acquire().await.unwrap();
    let error = pool.acquire_within(s(2)).await.unwrap_err();
    assert!(matches!(error, AcquireError::TimedOut { waited, .. } if waited == s(2)), "{error:?}");
    assert!(error.to_string().contains("1 of 1 are in use"), "{error}");
    assert_eq!(pool.status().waiters, 0);
    drop(held);
    assert!(pool.acquire_within(ms(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_dropped_at_any_await_leaves_nothing_behind() {
    let server = Server::new();
    let pool = warm(&server, sized(2), 2).await;
    // While it waits: for a connection that is opened, that is held, that is validated.
    server.set(Mode::Slow(ms(50)));
    for stop_after in (0..120).step_by(7).map(ms) {
        sleep(s(1)).await;
        let mut tasks: Vec<_> = (0..5)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    let guard = pool.acquire().await.unwrap();
                    sleep(ms(20)).await;
                    drop(guard);
                })
            })
            .collect();
        sleep(stop_after).await;
        for task in &tasks {
            task.abort();
        }
        for task in tasks.drain(..) {
            let _ = task.await;
        }
        let status = pool.status();
        assert_eq!((status.in_use, status.waiters), (0, 0), "dropped after {stop_after:?}: {status:?}");
    }
    let both = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    assert!(server.most.load(Ordering::SeqCst) <= 2);
    drop(both);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_is_told_at_once_with_when_to_come_again() {
    let server = Server::new();
    server.set(Mode::Refuses);
    let pool = server.pool(sized(4));
    let began = Instant::now();
    let error = pool.acquire().await.unwrap_err();
    assert!(began.elapsed() < ms(200), "{:?}", began.elapsed());
    let retry_after = error.retry_after().unwrap();
    assert!(retry_after <= s(1), "a knock is due by then: {retry_after:?}");
    assert!(error.to_string().contains("the server last said: refused"), "{error}");
    let status = pool.status();
    assert_eq!(status.state, State::Recovering);
    assert!(status.last_failure_time.is_some());
    assert_eq!(status.last_error.as_deref(), Some("refused"));
}

#[tokio::test(start_paused = true)]
async fn it_comes_back_by_itself_within_a_second_or_two_however_long_the_server_was_away() {
    for away in [s(2), s(30), s(600), s(24 * 3600)] {
        let server = Server::new();
        let pool = warm(&server, sized(4), 4).await;
        server.restart();
        server.set(Mode::Refuses);
        sleep(s(1)).await;
        let _ = pool.acquire().await.unwrap_err();
        sleep(away).await;
        assert!(!pool.status().healthy);
        server.set(Mode::Up);
        sleep(ms(2100)).await;
        let status = pool.status();
        assert!(status.healthy && status.breaker == BreakerState::Closed, "after {away:?}: {status:?}");
        assert_eq!(status.last_error, None);
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(pool.acquire_within(ms(10)).await.unwrap());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_no_caller_gets_a_dead_connection_and_none_an_error() {
    let server = Server::new();
    let pool = warm(&server, sized(10), 10).await;
    sleep(s(1)).await;
    server.restart();
    let tasks: Vec<_> = (0..40)
        .map(|_| {
            let (pool, server) = (pool.clone(), Arc::clone(&server));
            tokio::spawn(async move {
                let guard = pool.acquire().await.unwrap();
                assert_eq!(guard.life, server.life.load(Ordering::SeqCst));
                sleep(ms(1)).await;
                drop(guard);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let status = pool.status();
    assert!(status.healthy && status.breaker == BreakerState::Closed, "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_is_given_up_sooner_the_faster_it_was_before() {
    let server = Server::new();
    let pool = warm(&server, sized(10), 10).await;
    pool.force_reopen();
    sleep(ms(10)).await;
    server.set(Mode::Hangs);
    server.restart();
    sleep(s(1)).await;
    let began = Instant::now();
    let error = pool.acquire().await.unwrap_err();
    assert!(error.retry_after().is_some(), "{error}");
    assert!(began.elapsed() < s(4), "and not after twice ten seconds: {:?}", began.elapsed());
    assert!(pool.status().last_error.unwrap().starts_with("no "), "{:?}", pool.status());
    // A server that is slow from now on is reached all the same, and is given its time.
    server.set(Mode::Slow(s(4)));
    sleep(s(120)).await;
    assert!(pool.status().healthy, "{:?}", pool.status());
    assert_eq!(pool.status().connect_limit_ms, 10_000);
}

#[tokio::test(start_paused = true)]
async fn what_hangs_is_stopped_and_takes_no_place() {
    let server = Server::new();
    server.set(Mode::Hangs);
    let pool = server.pool(sized(2));
    let _ = pool.acquire().await.unwrap_err();
    sleep(s(3600)).await;
    assert!(server.open() <= 1, "only the look of now: {}", server.open());
    pool.close();
    tokio::task::yield_now().await;
    assert_eq!(server.open(), 0);
    assert!(server.most.load(Ordering::SeqCst) <= 2);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_asked_for_a_sign_of_life_and_dead_ones_leave() {
    let server = Server::new();
    let pool = warm(&server, sized(5), 5).await;
    server.restart();
    sleep(s(33)).await;
    let status = pool.status();
    assert!(status.healthy, "{status:?}");
    assert!(status.idle >= 1 && server.open() == status.idle, "{status:?}");
    let mut held = Vec::new();
    for _ in 0..status.idle {
        held.push(now(pool.acquire()));
    }
    assert!(held.iter().all(|connection| connection.number >= 5), "one of before the restart");
}

/// What is there without waiting.
fn now<T>(future: impl Future<Output = Result<T, AcquireError>>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(answer) => answer.unwrap(),
        std::task::Poll::Pending => panic!("has to wait"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_unused_pool_does_not_grow_by_its_own_looks() {
    let server = Server::new();
    let pool = server.pool(Params { min_idle: 2, ..sized(10) });
    sleep(s(3600)).await;
    let status = pool.status();
    assert_eq!((status.idle, server.open()), (2, 2), "{status:?}");
    assert!(status.healthy);
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_what_is_held_and_reopening_undoes_it() {
    let server = Server::new();
    let pool = warm(&server, sized(3), 3).await;
    let held = pool.acquire().await.unwrap();
    assert!(!pool.drain(s(1)).await, "one is held");
    assert_eq!(server.open(), 1);
    assert!(matches!(pool.acquire().await, Err(AcquireError::Refused { refusal: Refusal::Closed, .. })));
    let draining = tokio::spawn({
        let pool = pool.clone();
        async move { pool.drain(s(60)).await }
    });
    sleep(s(5)).await;
    drop(held);
    assert!(draining.await.unwrap());
    assert_eq!(server.open(), 0);
    pool.force_reopen();
    assert!(pool.acquire().await.is_ok());
    assert!(pool.status().healthy);
}

#[tokio::test(start_paused = true)]
async fn a_connection_held_for_long_is_counted_and_one_dropped_by_a_panic_is_not_used_again() {
    let server = Server::new();
    let pool = server.pool(sized(2));
    let held = pool.acquire().await.unwrap();
    sleep(s(61)).await;
    assert_eq!(pool.status().leaks_total, 1);
    let number = held.number;
    let died = tokio::spawn(async move {
        let _held = held;
        panic!("a caller's own");
    });
    assert!(died.await.is_err());
    assert_ne!(pool.acquire().await.unwrap().number, number);
    assert!(pool.status().healthy, "it says nothing about the server");
}

#[tokio::test(start_paused = true)]
async fn a_guard_may_be_dropped_where_there_is_no_runtime() {
    let server = Server::new();
    let pool = server.pool(sized(1));
    let mut held = pool.acquire().await.unwrap();
    held.mark_broken();
    std::thread::spawn(move || drop(held)).join().unwrap();
    assert_eq!(pool.acquire().await.unwrap().number, 1);
}

#[tokio::test(start_paused = true)]
async fn a_health_check_looks_and_says_what_to_do() {
    let server = Server::new();
    let pool = warm(&server, sized(2), 2).await;
    let made = server.made.load(Ordering::SeqCst);
    assert!(pool.health_check().await.healthy);
    assert_eq!(server.made.load(Ordering::SeqCst), made + 1, "on a fresh connection");
    server.set(Mode::Refuses);
    let diagnosis = pool.health_check().await;
    assert!(!diagnosis.healthy);
    assert!(diagnosis.summary.contains("refused"), "{diagnosis:?}");
    server.set(Mode::Up);
    // Where there is no room for a look, nothing is waited for.
    pool.force_reopen();
    let held = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    let began = Instant::now();
    assert!(pool.health_check().await.healthy);
    assert_eq!(began.elapsed(), Duration::ZERO);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_health_check_does_not_answer_with_a_look_that_began_before_it() {
    let server = Server::new();
    let pool = warm(&server, sized(2), 2).await;
    server.set(Mode::RefusesSlowly(s(1)));
    assert!(!pool.health_check().await.healthy);
    // The next attempt is out, and will fail though the server is well again by then.
    let attempts = || pool.status().recovery_attempts_total;
    let before = attempts();
    while attempts() == before {
        sleep(ms(1)).await;
    }
    sleep(ms(1)).await;
    server.set(Mode::Slow(ms(10)));
    let diagnosis = pool.health_check().await;
    assert!(diagnosis.healthy, "{diagnosis:?}");
}

#[tokio::test(start_paused = true)]
async fn isolated_it_turns_callers_away_until_its_time_or_a_person() {
    let server = Server::new();
    let pool = warm(&server, sized(2), 1).await;
    pool.isolate(Some(s(10)));
    assert_eq!(pool.acquire().await.unwrap_err().retry_after(), Some(s(10)));
    sleep(s(10)).await;
    assert!(pool.acquire().await.is_ok());
    pool.isolate(None);
    assert!(pool.acquire().await.is_err());
    pool.reset_circuit_breaker();
    assert!(pool.acquire().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn parameters_change_under_way() {
    let server = Server::new();
    let pool = warm(&server, sized(1), 1).await;
    let held = pool.acquire().await.unwrap();
    pool.set_params(Params { max_size: 2, ..pool.params() });
    let second = pool.acquire().await.unwrap();
    pool.set_params(Params { max_size: 1, ..pool.params() });
    drop((held, second));
    assert_eq!((pool.status().idle, server.open()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_pool_ends_with_its_last_handle() {
    let server = Server::new();
    let pool = warm(&server, sized(2), 2).await;
    let held = pool.acquire().await.unwrap();
    drop(pool);
    assert_eq!(server.open(), 2);
    drop(held);
    sleep(ms(1)).await;
    assert_eq!(server.open(), 0);
    assert_eq!(Arc::strong_count(&server), 1, "the manager went with it");
}

#[tokio::test(start_paused = true)]
async fn what_is_said_is_a_document_without_surprises() {
    let server = Server::new();
    let pool = warm(&server, sized(2), 1).await;
    let status = serde_json::to_value(pool.status()).unwrap();
    for (key, value) in [
        ("pool", serde_json::json!("played")),
        ("healthy", true.into()),
        ("state", "healthy".into()),
        ("breaker", "closed".into()),
        ("recovery_in_progress", false.into()),
        ("consecutive_failures", 0.into()),
        ("last_failure_time", serde_json::Value::Null),
        ("idle", 1.into()),
    ] {
        assert_eq!(status[key], value, "{key}");
    }
}
