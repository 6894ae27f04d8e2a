//! A real HTTP server under the pool: ready, not ready, restarted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use guardian::pool::{Http, Manager, Params, Pool, Returned};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

struct Server {
    listener: std::net::TcpListener,
    status: Arc<AtomicU16>,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start() -> Server {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let status = Arc::new(AtomicU16::new(200));
        let answered = Arc::clone(&status);
        let routes = Router::new()
            .route(
                "/readyz",
                get(move || async move { StatusCode::from_u16(answered.load(Ordering::SeqCst)).unwrap() }),
            )
            .route("/slow", get(|| async { std::future::pending::<()>().await }))
            .route("/long", get(|| async { "x".repeat(1_000_000) }));
        let listening = TcpListener::from_std(listener.try_clone().unwrap()).unwrap();
        let serving = tokio::spawn(async move { axum::serve(listening, routes).await.unwrap() });
        Server { listener, status, serving }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listener.local_addr().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn pool(server: &Server) -> Pool<Http> {
    Pool::new("http", Http::new(&server.url("/readyz")).unwrap(), Params::default())
}

#[tokio::test]
async fn it_is_well_when_its_path_answers_with_success_and_says_what_it_answered_otherwise() {
    let server = Server::start().await;
    let pool = pool(&server);
    assert!(pool.health_check().await.healthy);
    server.status.store(503, Ordering::SeqCst);
    let diagnosis = pool.health_check().await;
    assert!(!diagnosis.healthy && diagnosis.summary.contains("answered 503"), "{diagnosis:?}");
    server.status.store(204, Ordering::SeqCst);
    let back = async {
        while !pool.status().healthy {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), back).await.expect("it lasts");
}

#[tokio::test]
async fn a_connection_serves_again_when_its_answer_was_read_and_not_in_the_middle_of_one() {
    let server = Server::start().await;
    let readyz = Http::new(&server.url("/readyz")).unwrap();
    let mut connection = readyz.connect().await.unwrap();
    for _ in 0..3 {
        readyz.is_valid(&mut connection).await.unwrap();
        connection.ready().await.unwrap();
        assert_eq!(readyz.recycle(&mut connection), Returned::Good);
    }
    let slow = Http::new(&server.url("/slow")).unwrap();
    assert!(timeout(Duration::from_millis(50), slow.is_valid(&mut connection)).await.is_err());
    assert_ne!(readyz.recycle(&mut connection), Returned::Good);

    let long = Http::new(&server.url("/long")).unwrap();
    let mut connection = long.connect().await.unwrap();
    let error = long.is_valid(&mut connection).await.unwrap_err().to_string();
    assert!(error.contains("more than 65536 bytes"), "{error}");
    assert_ne!(long.recycle(&mut connection), Returned::Good);
}
