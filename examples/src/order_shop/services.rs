//! The three services of the shop, and what publishes for one of them, all in this process.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use idempotency::{Secret, Store};
use outbox_relay::{KafkaSink, Relay, Routes, SqliteSource};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::broker::Broker;
use super::definition;
use super::faults::Faults;
use super::home::Home;
use super::ledger::{Guard, Ledger, durable};
use super::server::Server;
use super::{payment, shipping, stock};

/// The services, running.
#[derive(Debug)]
pub struct Services {
    stock: Server,
    payment: Server,
    shipping: Server,
    relay: JoinHandle<outbox_relay::Result<()>>,
    stop_relay: CancellationToken,
}

/// Where the ledgers are.
#[derive(Clone, Debug)]
pub struct Ledgers {
    /// Stock.
    pub stock: PathBuf,
    /// Payment.
    pub payment: PathBuf,
    /// Shipping, with its outbox.
    pub shipping: PathBuf,
}

/// Why a service cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum CannotOpen {
    /// Its database.
    #[error("a ledger cannot be opened: {0}")]
    Ledger(#[from] sqlx::Error),
    /// Its outbox.
    #[error("the outbox cannot be opened: {0}")]
    Outbox(#[from] outbox::Error),
    /// Its relay.
    #[error("the relay cannot be started: {0}")]
    Relay(#[from] outbox_relay::Error),
    /// Its server.
    #[error("a service cannot listen: {0}")]
    Server(#[from] io::Error),
}

impl Ledgers {
    /// The ledgers of a run.
    pub fn of(home: &Home) -> Self {
        Self {
            stock: home.file("stock.db"),
            payment: home.file("payment.db"),
            shipping: home.file("shipping.db"),
        }
    }
}

impl Services {
    /// Opens all of them. The payment service keeps its keys in this store.
    pub async fn open(
        ledgers: &Ledgers,
        faults: Faults,
        keys: Arc<dyn Store>,
        broker: &Broker,
    ) -> Result<Self, CannotOpen> {
        // Keys are the run's own, so a secret of its own does no harm.
        let secret = Secret::new(rand::random());
        let stock = stock::service(Ledger::open(&ledgers.stock, Guard::Key).await?);
        let payment = Ledger::open(&ledgers.payment, Guard::Elsewhere).await?;
        let payment = payment::service(payment, faults, keys, secret);

        let mut connection = durable(&ledgers.shipping).connect().await?;
        outbox::migrate(&mut connection).await?;
        connection.close().await?;
        let shipping = shipping::service(Ledger::open(&ledgers.shipping, Guard::Key).await?, faults);
        let source = SqliteSource::open(&ledgers.shipping).await?;
        let routes = Routes { topic: broker.topic().to_owned(), ..Routes::default() };
        let relay = Relay::new(source, KafkaSink::connect(broker.servers())?).routes(routes);
        let stop_relay = CancellationToken::new();
        Ok(Self {
            stock: Server::start(stock, faults).await?,
            payment: Server::start(payment, faults).await?,
            shipping: Server::start(shipping, faults).await?,
            relay: tokio::spawn(relay.run(stop_relay.clone())),
            stop_relay,
        })
    }

    /// Where they are, for the steps.
    pub fn addresses(&self) -> definition::Services {
        definition::Services {
            stock: self.stock.url(),
            payment: self.payment.url(),
            shipping: self.shipping.url(),
        }
    }

    /// Whether the relay has given up, which it does only for what waiting cannot mend.
    pub fn relay_is_gone(&self) -> bool {
        self.relay.is_finished()
    }

    /// Closes them, the relay last; answers how many answers were lost.
    pub async fn close(self) -> outbox_relay::Result<u64> {
        let lost = self.stock.lost() + self.payment.lost() + self.shipping.lost();
        self.stock.stop().await;
        self.payment.stop().await;
        self.shipping.stop().await;
        self.stop_relay.cancel();
        self.relay.await.expect("the relay does not panic")?;
        Ok(lost)
    }
}
