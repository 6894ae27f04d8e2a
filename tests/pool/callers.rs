//! Callers at work, whatever the server does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use guardian::pool::{BreakerState, Manager, Pool, State};
use tokio::time::{sleep, timeout};

const CALLERS: usize = 20;

/// Callers that ask again and again, each as a careful program does.
pub struct Callers<M: Manager> {
    pool: Pool<M>,
    stopped: Arc<AtomicBool>,
    /// Answers in a row, by caller.
    in_a_row: Arc<Vec<AtomicUsize>>,
    errors: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl<M: Manager + Clone> Callers<M> {
    pub fn begin(pool: &Pool<M>, manager: &M) -> Callers<M> {
        Callers::begin_so_many(CALLERS, pool, manager)
    }

    pub fn begin_so_many(count: usize, pool: &Pool<M>, manager: &M) -> Callers<M> {
        let mut callers = Callers {
            pool: pool.clone(),
            stopped: Arc::default(),
            in_a_row: Arc::new((0..count).map(|_| AtomicUsize::new(0)).collect()),
            errors: Arc::default(),
            tasks: Vec::new(),
        };
        for caller in 0..count {
            let (pool, manager) = (pool.clone(), manager.clone());
            let (stopped, rows, errors) =
                (Arc::clone(&callers.stopped), Arc::clone(&callers.in_a_row), Arc::clone(&callers.errors));
            callers.tasks.push(tokio::spawn(async move {
                while !stopped.load(Ordering::SeqCst) {
                    if call(&pool, &manager).await {
                        rows[caller].fetch_add(1, Ordering::SeqCst);
                    } else {
                        rows[caller].store(0, Ordering::SeqCst);
                        errors.fetch_add(1, Ordering::SeqCst);
                    }
                    sleep(Duration::from_millis(5)).await;
                }
            }));
        }
        callers
    }

    /// Waits until every caller was answered ten times in a row from now on.
    pub async fn all_are_served(&self) {
        for row in self.in_a_row.iter() {
            row.store(0, Ordering::SeqCst);
        }
        let served = async {
            while self.in_a_row.iter().any(|row| row.load(Ordering::SeqCst) < 10) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = timeout(Duration::from_secs(30), served).await;
        assert!(in_time.is_ok(), "it lasts: {:?}", self.pool.status());
    }

    pub async fn some_fail(&self) {
        let before = self.errors.load(Ordering::SeqCst);
        let failed = async {
            while self.errors.load(Ordering::SeqCst) == before {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), failed).await.expect("nobody noticed that the server fails");
    }

    pub async fn end(self) {
        self.stopped.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        // The last call may have been one that a busy machine kept waiting.
        let well = async {
            while self.pool.status().state != State::Healthy {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = timeout(Duration::from_secs(30), well).await;
        let status = self.pool.status();
        assert_eq!((status.in_use, status.waiters, status.leaks_total), (0, 0, 0), "{status:?}");
        assert_eq!((status.state, status.breaker), (State::Healthy, BreakerState::Closed), "{status:?}");
        assert!(self.pool.drain(Duration::from_secs(10)).await);
    }
}

async fn call<M: Manager>(pool: &Pool<M>, manager: &M) -> bool {
    let Ok(mut connection) = pool.acquire_within(Duration::from_secs(1)).await else { return false };
    // A question of a caller's own, with a caller's patience.
    match timeout(Duration::from_millis(300), manager.is_valid(&mut connection)).await {
        Ok(Ok(())) => true,
        Ok(Err(_)) | Err(_) => {
            connection.mark_broken();
            false
        }
    }
}
