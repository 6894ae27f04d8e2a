//! Callers at work while the server fails, in every way that it can.

use std::time::{Duration, Instant};

use guardian::pool::{Manager, Params, Ping, Pool, State, Tcp};
use tokio::time::{sleep, timeout};

use crate::callers::Callers;
use crate::server::{Manner, Server};

const SIZE: u32 = 5;

fn pool(server: &Server) -> Pool<Tcp> {
    Pool::new("test", Tcp::new(&server.address(), Some(Ping::redis())), Params { max_size: SIZE, ..Params::default() })
}

/// One outage, from full service to full service.
async fn outage(begin: impl AsyncFnOnce(&mut Server), end: impl AsyncFnOnce(&mut Server)) {
    let mut server = Server::start();
    let pool = pool(&server);
    let callers = Callers::begin(&pool, &Tcp::new(&server.address(), Some(Ping::redis())));
    callers.all_are_served().await;
    assert!(server.most() <= SIZE as usize, "{} connections", server.most());
    begin(&mut server).await;
    callers.some_fail().await;
    sleep(Duration::from_millis(500)).await;
    let back = Instant::now();
    end(&mut server).await;
    callers.all_are_served().await;
    let storm = server.accepted_since(back);
    assert!(storm <= 3 * SIZE as usize, "{storm} connects to a server that has just come back");
    callers.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_stopped_and_started() {
    outage(async |server| server.stop(), async |server| server.restart()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hung() {
    outage(async |server| server.behave(Manner::Hung), async |server| server.behave(Manner::Prompt)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_lost_every_answer() {
    outage(async |server| server.behave(Manner::Lost), async |server| server.behave(Manner::Prompt)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_let_in_and_did_not_work() {
    outage(async |server| server.behave(Manner::Useless), async |server| server.behave(Manner::Prompt)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_too_slow_for_its_callers() {
    let slow = Manner::Slow(Duration::from_millis(400));
    outage(async |server| server.behave(slow), async |server| server.behave(Manner::Prompt)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_reset_are_replaced() {
    let server = Server::start();
    let pool = pool(&server);
    let callers = Callers::begin(&pool, &Tcp::new(&server.address(), Some(Ping::redis())));
    for _ in 0..5 {
        callers.all_are_served().await;
        server.reset();
    }
    callers.all_are_served().await;
    callers.end().await;
}

#[tokio::test]
async fn an_idle_connection_that_the_server_closed_is_never_handed_out() {
    let mut server = Server::start();
    let pool = pool(&server);
    drop(pool.acquire().await.unwrap());
    server.stop();
    server.restart();
    // Older than what is handed out unseen.
    sleep(Duration::from_millis(600)).await;
    let manager = Tcp::new(&server.address(), Some(Ping::redis()));
    let mut connection = pool.acquire().await.unwrap();
    manager.is_valid(&mut connection).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_nobody_read_is_not_taken_for_the_next() {
    let server = Server::start();
    server.behave(Manner::Slow(Duration::from_millis(100)));
    let pool = pool(&server);
    let manager = Tcp::new(&server.address(), Some(Ping::redis()));
    let mut connection = pool.acquire().await.unwrap();
    let first = connection.local_addr().unwrap();
    assert!(timeout(Duration::from_millis(20), manager.is_valid(&mut connection)).await.is_err());
    // The answer is there by the time that the connection goes back.
    connection.readable().await.unwrap();
    drop(connection);
    assert_ne!(pool.acquire().await.unwrap().local_addr().unwrap(), first);
    assert!(pool.status().healthy, "a caller's impatience says nothing about the server");
}

#[tokio::test]
async fn a_server_that_answers_otherwise_is_told_with_what_it_said() {
    let server = Server::start();
    server.behave(Manner::Useless);
    let pool = pool(&server);
    let diagnosis = pool.health_check().await;
    assert!(!diagnosis.healthy);
    assert_eq!(diagnosis.status.state, State::Recovering);
    assert!(diagnosis.summary.contains("answered \"-LOADING\""), "{}", diagnosis.summary);
}
