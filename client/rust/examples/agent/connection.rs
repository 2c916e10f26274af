//! One client of the agent, and the tasks that read its subscriptions.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fulmar_client::{ChannelName, Client, Close, Positions, Start, Subscription};
use tokio::{sync::oneshot, task::JoinSet};

use crate::Failure;
pub use crate::held::Held;

type Leave = oneshot::Sender<oneshot::Sender<Result<(), Failure>>>;

pub struct Connection {
    pub client: Arc<Client>,
    pub held: Arc<Held>,
    tasks: Mutex<JoinSet<()>>,
    leaving: Mutex<HashMap<ChannelName, Leave>>,
}

pub fn channel(name: &str) -> Result<ChannelName, Failure> {
    ChannelName::parse(name).map_err(|problem| Failure::new(problem.code.as_str(), problem.message))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    pub fn new(client: Client, held: Arc<Held>) -> Self {
        let client = Arc::new(client);
        let mut tasks = JoinSet::new();
        let (closing, told) = (client.clone(), held.clone());
        tasks.spawn(async move {
            let close = closing.closed().await;
            told.end(close);
        });
        // A cursor is over the channels of this connection.
        held.state().positions.clear();
        Self { client, held, tasks: Mutex::new(tasks), leaving: Mutex::default() }
    }

    pub async fn subscribe(&self, name: &ChannelName, start: Start) -> Result<(), Failure> {
        self.follow(self.client.subscribe(name, start).await?);
        Ok(())
    }

    fn follow(&self, subscription: Subscription) {
        let name = subscription.channel().clone();
        self.held.state().positions.insert(name.clone(), subscription.position().cloned());
        let (leave, leaving) = oneshot::channel();
        lock(&self.leaving).insert(name, leave);
        let held = self.held.clone();
        lock(&self.tasks).spawn(read(subscription, held, leaving));
    }

    /// Attaches, and reads the channels of the positions on.
    pub async fn attach(&self, id: &str, secret: &str, positions: Option<Positions>) -> Result<(), Failure> {
        let channels = positions.as_ref().map_or(0, |positions| positions.iter().len());
        self.client.resume(id, secret, positions).await?;
        for _ in 0..channels {
            let gone = |close: Close| Failure::new("closed", format!("closed with {}", close.code));
            let subscription = self.client.adopted().await.map_err(gone)?;
            self.follow(subscription);
        }
        Ok(())
    }

    pub async fn unsubscribe(&self, name: &ChannelName) -> Result<(), Failure> {
        let leave = lock(&self.leaving).remove(name);
        let gone = || Failure::new("not_subscribed", format!("the connection does not have {name}"));
        let (left, wait) = oneshot::channel();
        leave.ok_or_else(gone)?.send(left).map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }

    pub fn close(&self, code: u32, reason: &str) {
        self.client.close(code, reason);
        let mut tasks = lock(&self.tasks);
        tasks.abort_all();
        drop(tasks);
        self.held.end(Close { code, reason: reason.to_owned(), retry: None });
    }
}

async fn read(
    mut subscription: Subscription,
    held: Arc<Held>,
    mut leaving: oneshot::Receiver<oneshot::Sender<Result<(), Failure>>>,
) {
    loop {
        tokio::select! {
            event = subscription.advance() => match event {
                Ok(event) => {
                    let position = subscription.position().cloned();
                    held.take(subscription.channel(), event, position);
                }
                Err(_) => return,
            },
            Ok(left) = &mut leaving => {
                let name = subscription.channel().clone();
                let answer = subscription.unsubscribe().await.map_err(Failure::from);
                held.state().positions.remove(&name);
                let _ = left.send(answer);
                return;
            }
        }
    }
}
