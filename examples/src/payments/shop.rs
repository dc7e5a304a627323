//! The shop that pays: each payment under a key of its own, asked for until its outcome is known.
//!
//! The key is made of the payment's own name, so that a shop that is restarted asks under the same one. A lost
//! answer is no failure: nobody can tell it from a lost request, and asking again under the key is what tells.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use idempotency::Key;
use idempotency::client::{Http, Outcome, Retries, Send};

use super::Failure;
use super::service::{Charge, Receipt};

/// What the shop knows of one payment.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What was asked.
    pub charge: Charge,
    /// The service's receipt, or why there is none.
    pub told: Result<Receipt, String>,
}

/// How many payments are under way at once.
const AT_ONCE: usize = 8;

/// Makes so many payments.
pub async fn pay(url: &str, payments: u32) -> Result<Vec<Asked>, Failure> {
    // What is lost by the proxy comes back as a broken connection at once; a real network also stays silent.
    let http = Http::new(reqwest::Client::builder().timeout(Duration::from_secs(10)))?;
    let charges = (1..=payments).map(|number| Charge {
        payment: format!("order-{number}"),
        cents: i64::from(number) * 37 % 20_000 + 100,
    });
    let asked = stream::iter(charges).map(|charge| pay_one(&http, url, charge)).buffered(AT_ONCE);
    Ok(asked.collect().await)
}

async fn pay_one(http: &Http, url: &str, charge: Charge) -> Asked {
    let told = ask(http, url, &charge).await;
    Asked { charge, told }
}

async fn ask(http: &Http, url: &str, charge: &Charge) -> Result<Receipt, String> {
    let key = Key::new(format!("{}/charge", charge.payment)).map_err(|error| error.to_string())?;
    // Sixty attempts at a quarter each: what a shop would spread over hours.
    let retries =
        Retries { attempts_max: 60, pause: Duration::from_millis(2), pause_max: Duration::from_millis(50) };
    let request = http.post(format!("{url}/charges")).json(charge);
    match Send::new(key).retries(retries).request(http, request).await {
        Outcome::Applied(response) => response.json().await.map_err(|error| error.to_string()),
        other => Err(format!("{:?}", other.reading())),
    }
}
