//! One run of the shop, from its opening to its report.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use saga_core::store::{Backend, Error, PostgresStore};
use saga_core::{Name, RunId};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::accounting::Accounting;
use super::address::shown;
use super::arguments::Arguments;
use super::broker::Broker;
use super::crew::Crew;
use super::display::Display;
use super::engine::Engine;
use super::front::{Handed, Pace, hand_out};
use super::home::Home;
use super::ledger;
use super::orders::Orders;
use super::reconcile::Evidence;
use super::report::{Counted, Report};
use super::services::{Ledgers, Services};
use super::worker::Hire;

/// The exit status of a run that was told to stop.
const STOPPED: u8 = 130;

/// Runs the shop. An error is why it could not be opened; nothing was started then.
pub(super) async fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    let mut orders = Orders::read(arguments.input.as_deref()).map_err(|error| error.to_string())?;
    if let Some(first) = arguments.first {
        orders.take_first(usize::try_from(first).unwrap_or(usize::MAX));
    }
    let shop = Shop::open(arguments, &orders).await?;
    let mut display = Display::new(orders.list.len());
    display.say(&format!(
        "{} orders over {}; files are in {}",
        orders.list.len(),
        orders.total(),
        shop.home.path().display()
    ));
    let home = shop.home.clone();
    let result = shop.trade(arguments, &orders, &mut display).await;
    display.finish();
    let report = match result {
        Ok(report) => report,
        Err(why) => {
            eprintln!("error: {why}; files are kept in {}", home.path().display());
            return Ok(ExitCode::FAILURE);
        }
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report).expect("numbers and texts are JSON"));
    } else {
        print!("\n{report}");
    }
    Ok(leave(&home, &report))
}

fn leave(home: &Home, report: &Report) -> ExitCode {
    if !report.agrees {
        eprintln!("files are kept in {}", home.path().display());
        return ExitCode::FAILURE;
    }
    home.forget();
    match report.orders_not_taken {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(STOPPED),
    }
}

/// An open shop.
struct Shop {
    home: Home,
    ledgers: Ledgers,
    broker: Broker,
    services: Services,
    accounting: Accounting,
    crew: Crew,
    engine: Engine,
}

impl Shop {
    /// Opens everything. What others run is asked first, so that a wrong address leaves nothing behind.
    async fn open(arguments: &Arguments, orders: &Orders) -> Result<Self, String> {
        let run = RunId::new();
        let home = Home::choose(arguments.dir.as_deref(), arguments.keep, run)?;
        let topic = arguments.topic.clone().unwrap_or_else(|| format!("orders-{run}"));
        let broker = Broker::find(arguments.kafka.as_deref(), topic).await?;
        let keys = match &arguments.idempotency {
            Some(url) => Some(keys(url).await?),
            None => None,
        };
        let store = match &arguments.store {
            Some(url) => Some(store(url).await?),
            None => None,
        };
        home.make()?;
        let opened = Self::open_at(&home, broker, keys, store, arguments, orders, run).await;
        opened.inspect_err(|_| home.forget())
    }

    async fn open_at(
        home: &Home,
        broker: Broker,
        keys: Option<Keys>,
        store: Option<Backend>,
        arguments: &Arguments,
        orders: &Orders,
        run: RunId,
    ) -> Result<Self, String> {
        super::log_to(&home.file("shop.log"))?;
        broker.make_topic(orders.list.len()).await?;
        let keys = match keys {
            Some(keys) => keys,
            None => self::keys(&home.sqlite("idempotency.db")).await?,
        };
        let sagas = home.file("saga.db").display().to_string();
        let backend = match store {
            Some(store) => store,
            None => self::store(&sagas).await?,
        };
        let ledgers = Ledgers::of(home);
        let services = Services::open(&ledgers, arguments.faults(), keys, &broker);
        let services = services.await.map_err(|error| error.to_string())?;
        let books = home.file("accounting.db");
        let accounting = Accounting::start(&books, broker.servers(), broker.topic()).await;
        let accounting = accounting.map_err(|error| format!("the accounting service: {error}"))?;

        let definition =
            Name::new(format!("place-order.{run}")).expect("is short and made of legal characters");
        let hire = Hire {
            definition: definition.to_string(),
            store: arguments.store.clone().unwrap_or(sagas),
            services: services.addresses(),
            lease: Duration::from_secs(arguments.lease.into()),
        };
        let crew = Crew::hire(arguments.workers.into(), hire, home.path().to_owned()).await;
        let crew = crew.map_err(|error| format!("a worker cannot be started: {error}"))?;
        let engine = Engine::new(backend, definition);
        Ok(Self { home: home.clone(), ledgers, broker, services, accounting, crew, engine })
    }

    /// Has all orders driven, waits for their events, closes the shop and compares what everybody wrote down.
    async fn trade(
        mut self,
        arguments: &Arguments,
        orders: &Orders,
        display: &mut Display,
    ) -> Result<Report, String> {
        let pace = Pace {
            in_flight: arguments.in_flight.into(),
            kills: arguments.kill.into(),
            faults: arguments.faults(),
        };
        let stop = stop_when_told().map_err(|error| format!("signals cannot be heard: {error}"))?;
        let began = Instant::now();
        let handed = hand_out(&orders.list, &pace, &mut self.crew, &self.engine, display, &stop).await?;
        let took = began.elapsed();
        self.close(orders, handed, took).await
    }

    async fn close(self, orders: &Orders, handed: Handed, took: Duration) -> Result<Report, String> {
        let Self { ledgers, broker, services, accounting, crew, engine, .. } = self;
        let text = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
        crew.dismiss().await.map_err(|error| text("a worker could not be dismissed", &error))?;
        let sagas = engine.sagas().await.map_err(|error| text("the saga store", &error))?;
        let read =
            |ledger| async move { ledger::read(ledger).await.map_err(|error| text("a ledger", &error)) };
        let shipping = read(&ledgers.shipping).await?;
        let shipped = shipping.iter().filter(|(_, verdict)| *verdict == ledger::Verdict::Applied).count();
        last_events(&services, &accounting, shipped as u64).await;
        let answers_lost = services.close().await.map_err(|error| text("the relay", &error))?;
        let consumer_duplicates = accounting.duplicates();
        let (books, parked) =
            accounting.close().await.map_err(|error| text("the accounting service", &error))?;
        let evidence = Evidence {
            sagas,
            stock: read(&ledgers.stock).await?,
            payment: read(&ledgers.payment).await?,
            shipping,
            topic: broker.read().await?,
            books,
            parked,
        };
        let counted =
            Counted { handed: handed.orders, answers_lost, consumer_duplicates, kills: handed.kills, took };
        Ok(Report::draw(orders, &counted, &evidence))
    }
}

/// How long the last events may stand still between outbox and books before the report is drawn without them.
const STILL: Duration = Duration::from_secs(20);

/// Waits until what was shipped has been booked.
async fn last_events(services: &Services, accounting: &Accounting, shipped: u64) {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        let received = accounting.received();
        if received >= shipped || since.elapsed() > STILL || services.relay_is_gone() {
            return;
        }
        if received > seen {
            (seen, since) = (received, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

type Keys = std::sync::Arc<dyn idempotency::Store>;

async fn keys(url: &str) -> Result<Keys, String> {
    let connected = idempotency::store::connect(url).await;
    connected.map_err(|error| format!("--idempotency {}: {error}", shown(url)))
}

async fn store(url: &str) -> Result<Backend, String> {
    let named = |error: Error| format!("--store {}: {error}", shown(url));
    // Whoever runs workers may lack the right to migrate; then the schema has to be there.
    let migrated = match url.starts_with("postgres") {
        true => PostgresStore::migrate(url).await,
        false => Ok(()),
    };
    match migrated {
        Err(away) if away.is_transient() => Err(named(away)),
        Err(why) => saga_core::store::connect(url).await.map_err(|_| named(why)),
        Ok(()) => saga_core::store::connect(url).await.map_err(|error| format!("--store: {error}")),
    }
}

/// Stops the shop when it is told to for the first time (Ctrl-C, or SIGTERM); ends the process at the second.
/// Workers notice that by themselves.
fn stop_when_told() -> std::io::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        for time in 1.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if time > 1 {
                std::process::exit(STOPPED.into());
            }
            told.cancel();
        }
    });
    Ok(stop)
}
