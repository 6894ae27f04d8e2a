//! Fifty workers on a real PostgreSQL, whose way is cut in every manner or which stands still: full service again, soon after it
//! is back, without a storm.

use std::time::{Duration, Instant};

use guardian::pool::{Params, Pool, Postgres};
use rustix::process::Signal;
use tokio::time::sleep;

use crate::callers::Callers;
use crate::postgres_server::Postgres as Server;
use crate::proxy::{Proxy, Way};

const SIZE: u32 = 10;
const WORKERS: usize = 50;

/// One outage; `seconds` is how long it lasts after it was noticed.
async fn outage(seconds: f64, begin: impl FnOnce(&Server, &Proxy), end: impl FnOnce(&Server, &Proxy)) {
    let Some(server) = Server::start(&[]) else { return };
    let proxy = Proxy::to(server.port()).await;
    let address = format!("postgres://tester:first@127.0.0.1:{}/postgres?sslmode=disable", proxy.port());
    let manager = Postgres::new(&address).unwrap();
    let pool = Pool::new("proxied", manager.clone(), Params { max_size: SIZE, ..Params::default() });
    let workers = Callers::begin_so_many(WORKERS, &pool, &manager);
    workers.all_are_served().await;
    begin(&server, &proxy);
    workers.some_fail().await;
    sleep(Duration::from_secs_f64(seconds)).await;
    let (before, back) = (proxy.accepted(), Instant::now());
    end(&server, &proxy);
    workers.all_are_served().await;
    println!(
        "{WORKERS} workers are served {:?} after it was back, by {} connects",
        back.elapsed(),
        proxy.accepted() - before
    );
    let storm = proxy.accepted() - before;
    assert!(storm <= 3 * SIZE as usize, "{storm} connects to a server that has just come back");
    workers.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_lost_what_was_sent() {
    outage(0.5, |_, proxy| proxy.set(Way::Drops), |_, proxy| proxy.set(Way::Open)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_took_too_long() {
    let delay = Way::Delays(Duration::from_millis(600));
    outage(0.5, |_, proxy| proxy.set(delay), |_, proxy| proxy.set(Way::Open)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_was_closed_by_half() {
    outage(0.5, |_, proxy| proxy.set(Way::HalfCloses), |_, proxy| proxy.set(Way::Open)).await;
}

/// Twenty seconds of wall clock with `GUARDIAN_TEST_LONG=1`, and one without: the suite has no time for more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stood_still() {
    let seconds = if std::env::var_os("GUARDIAN_TEST_LONG").is_some() { 20.0 } else { 1.0 };
    outage(seconds, |server, _| server.signal_all(Signal::STOP), |server, _| server.signal_all(Signal::CONT)).await;
}
