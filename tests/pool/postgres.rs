//! A real PostgreSQL under the pool: stopped, killed, frozen, too small, with another password, and by TLS.

use std::sync::Arc;
use std::time::Duration;

use guardian::pool::{Manager, Params, Pool, Postgres, State};
use rustix::process::Signal;
use tokio::time::sleep;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::callers::Callers;
use crate::postgres_server::Postgres as Server;

const SIZE: u32 = 5;

fn pool_to(server: &Server) -> (Pool<Postgres>, Postgres) {
    let manager = Postgres::new(&server.address("sslmode=disable")).unwrap();
    let pool = Pool::new("postgres", manager.clone(), Params { max_size: SIZE, ..Params::default() });
    (pool, manager)
}

/// Without blocking the threads that the callers need.
async fn apart<T: Send + 'static>(mut server: Server, what: impl FnOnce(&mut Server) -> T + Send + 'static) -> Server {
    tokio::task::spawn_blocking(move || {
        what(&mut server);
        server
    })
    .await
    .unwrap()
}

async fn run(pool: &Pool<Postgres>, sql: &str) {
    pool.acquire().await.unwrap().batch_execute(sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_stopped_or_killed_and_started() {
    let Some(mut server) = Server::start(&[]) else { return };
    let (pool, manager) = pool_to(&server);
    let callers = Callers::begin(&pool, &manager);
    for end in [Server::stop, Server::kill] {
        callers.all_are_served().await;
        server = apart(server, end).await;
        callers.some_fail().await;
        server = apart(server, |server| server.restart(&[])).await;
        callers.all_are_served().await;
    }
    callers.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_frozen() {
    let Some(server) = Server::start(&[]) else { return };
    let (pool, manager) = pool_to(&server);
    let callers = Callers::begin(&pool, &manager);
    callers.all_are_served().await;
    server.signal_all(Signal::STOP);
    callers.some_fail().await;
    sleep(Duration::from_secs(1)).await;
    server.signal_all(Signal::CONT);
    callers.all_are_served().await;
    callers.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lets_in_fewer_than_the_pool_wants() {
    let Some(server) = Server::start(&["-c", "max_connections=3"]) else { return };
    let (pool, manager) = pool_to(&server);
    let callers = Callers::begin(&pool, &manager);
    // Three serve all.
    callers.all_are_served().await;
    let status = pool.status();
    assert!(status.state != State::Healthy && status.last_error.is_some(), "{status:?}");
    let mut server = apart(server, Server::stop).await;
    server = apart(server, |server| server.restart(&[])).await;
    callers.all_are_served().await;
    callers.end().await;
    drop(server);
}

#[tokio::test]
async fn a_password_that_was_changed_and_changed_back() {
    let Some(server) = Server::start(&[]) else { return };
    let (pool, manager) = pool_to(&server);
    run(&pool, "ALTER ROLE tester PASSWORD 'second'").await;
    let diagnosis = pool.health_check().await;
    assert!(!diagnosis.healthy && diagnosis.summary.contains("password authentication failed"), "{diagnosis:?}");
    assert!(!format!("{diagnosis:?}").contains("first"), "a password is told: {diagnosis:?}");
    assert_eq!(manager.connect().await.map(drop).unwrap_err().sqlstate(), Some("28P01"));
    // What stands serves on, and is how it is changed back.
    run(&pool, "ALTER ROLE tester PASSWORD 'first'").await;
    let diagnosis = pool.health_check().await;
    assert!(diagnosis.healthy, "{diagnosis:?}");
}

#[tokio::test]
async fn a_connection_whose_backend_was_ended_is_not_handed_out() {
    let Some(server) = Server::start(&[]) else { return };
    let (pool, _) = pool_to(&server);
    let (first, second) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    let ended: i32 = second.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    drop(second);
    first.query_one("SELECT pg_terminate_backend($1)", &[&ended]).await.unwrap();
    // Older than what is handed out unseen; the first is held, so that it cannot be what is handed out.
    sleep(Duration::from_millis(600)).await;
    let third = pool.acquire().await.unwrap();
    let pid: i32 = third.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    assert_ne!(pid, ended);
}

#[tokio::test]
async fn a_server_by_tls_is_let_in_when_it_is_trusted_and_not_otherwise() {
    let Some(mut server) = Server::start(&[]) else { return };
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert_file, key_file) =
        (server.file("server.crt", &key.cert.pem()), server.file("server.key", &key.signing_key.serialize_pem()));
    server.stop();
    let (cert_file, key_file) =
        (format!("ssl_cert_file={}", cert_file.display()), format!("ssl_key_file={}", key_file.display()));
    server.restart(&["-c", "ssl=on", "-c", &cert_file, "-c", &key_file]);
    let mut roots = RootCertStore::empty();
    roots.add(key.cert.der().clone()).unwrap();
    let tls = |roots| {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    };
    let address = format!(
        "host=localhost hostaddr=127.0.0.1 port={} user=tester password=first dbname=postgres sslmode=require",
        server.port()
    );
    let pool = Pool::new("tls", Postgres::with_tls(&address, tls(roots)).unwrap(), Params::default());
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert!(pool.acquire().await.unwrap().query_one(sql, &[]).await.unwrap().get::<_, bool>(0));

    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(stranger.cert.der().clone()).unwrap();
    let manager = Postgres::with_tls(&address, tls(roots)).unwrap();
    let error = manager.connect().await.map(drop).unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}
