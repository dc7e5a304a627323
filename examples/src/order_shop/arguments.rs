//! The command line.

use std::path::PathBuf;

use clap::Parser;

use super::faults::{Faults, Rate};

/// Runs a shop's orders through the whole toolkit: one saga per order over three services that fail, answer
/// late and restart; its events through an outbox, a relay and Kafka into an inbox. Then it compares what the
/// engine says with the ledgers of the services, the topic and the books, to the penny.
///
/// Without options it needs no server: sagas and ledgers are SQLite files, Kafka is a mock in this process, and
/// the orders are 18,532 real ones that come with it.
#[derive(Clone, Debug, Parser)]
#[command(name = "order-shop", version, after_long_help = FILE)]
pub struct Arguments {
    /// CSV file with the orders, `-` for standard input; see below. Default: the built-in ones.
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Take only so many orders, from the first on.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub first: Option<u32>,
    /// Where sagas are kept: postgres://user:password@host/database. They stay there, under a definition of the
    /// run's own name. Default: a SQLite file.
    #[arg(long, value_name = "URL", env = "ORDER_SHOP_STORE", hide_env_values = true)]
    pub store: Option<String>,
    /// Where the payment service keeps idempotency keys: redis://host or postgres://… Default: a SQLite file.
    #[arg(long, value_name = "URL", env = "ORDER_SHOP_IDEMPOTENCY", hide_env_values = true)]
    pub idempotency: Option<String>,
    /// A Kafka to publish to; the topic stays there. Default: a mock cluster in this process.
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// The topic, which must be new or empty. Default: one of the run's own.
    #[arg(long, value_name = "NAME")]
    pub topic: Option<String>,
    /// Share of the payments that are refused, such as 5%.
    #[arg(long, value_name = "PERCENT", default_value = "0%")]
    pub reject: Rate,
    /// Share of the parcels that the carrier refuses, after they were paid.
    #[arg(long, value_name = "PERCENT", default_value = "0%")]
    pub undeliverable: Rate,
    /// Share of the calls, of any service, that are applied although their answer never arrives.
    #[arg(long, value_name = "PERCENT", default_value = "0%")]
    pub lost_answers: Rate,
    /// How often a worker process is killed with SIGKILL, at random moments, and replaced.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub kill: u16,
    /// What decides the faults: the same seed and orders meet the same ones.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// How many worker processes drive the sagas.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
    /// How many orders are in flight at once, at most.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=2048))]
    pub in_flight: u16,
    /// How long a silent worker of a Postgres store is waited for before its sagas are taken over, in seconds.
    /// On SQLite a dead one is noticed at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub lease: u16,
    /// The directory for databases and logs; it must be empty or not exist yet. Default: a new one, which is
    /// removed when all agree.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Keep the directory in any case.
    #[arg(long)]
    pub keep: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

const FILE: &str = "\
THE FILE
  Comma-separated values with a header, UTF-8. Four columns, in any order,
  beside others that are ignored:

    order id   unique, 1 to 100 characters    named order, order_id, InvoiceNo
    date       2011-12-09                     named date, order_date, InvoiceDate
    customer   1 to 100 characters            named customer, customer_id, CustomerID
    amount     12.34: digits and one point    named amount, total, TotalPrice

  Amounts are read as exact decimals and kept in whole cents. The noise that
  sums of binary numbers leave behind (22.200000000000003) is no fraction of a
  cent: at most a millionth of one. An amount that is up to a tenth of a cent
  off is rounded, and the result names the order. Everything else is refused:
  a sign, an exponent, a thousands separator, 1.005. The whole file is checked
  before anything is started.

EXIT STATUS
  0    every order is completed or compensated, and engine, ledgers, topic and
       books agree
  1    they do not; the differing orders are named, and the directory is kept
  2    the shop could not be opened: bad input, or a server that does not
       answer. Nothing was started
  130  it was stopped by Ctrl-C, which lets the orders in flight come to their
       end. A second Ctrl-C ends it at once

ENVIRONMENT
  RUST_LOG chooses what is logged to the files in the directory.";

impl Arguments {
    /// What goes wrong on purpose.
    pub fn faults(&self) -> Faults {
        let Self { seed, reject, undeliverable, lost_answers, .. } = *self;
        Faults { seed, reject, undeliverable, lost_answers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
        let arguments =
            Arguments::try_parse_from(["order-shop", "--reject", "5%", "--kill", "10"]).expect("parses");
        assert_eq!((arguments.reject.to_string(), arguments.kill, arguments.workers), ("5%".into(), 10, 1));
        assert!(Arguments::try_parse_from(["order-shop", "--reject", "5"]).is_err());
    }
}
