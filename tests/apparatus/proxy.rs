//! The proxy's faults, each seen by a client of a real server.

use std::io;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection, query, query_scalar};
use tests::proxy::Proxy;
use tests::servers::postgres::Database;
use tests::servers::{Redis, postgres};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

const SILENCE: Duration = Duration::from_millis(300);

/// A line to a server that speaks in lines, as Redis does.
struct Line(TcpStream);

impl Line {
    async fn open(proxy: &Proxy) -> io::Result<Self> {
        TcpStream::connect(proxy.address()).await.map(Self)
    }

    async fn say(&mut self, words: &str) -> io::Result<()> {
        self.0.write_all(format!("{words}\r\n").as_bytes()).await
    }

    async fn hear(&mut self) -> io::Result<String> {
        let mut answer = vec![0; 100];
        let length = self.0.read(&mut answer).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(String::from_utf8_lossy(&answer[..length]).trim().to_owned())
    }

    async fn ask(&mut self, words: &str) -> io::Result<String> {
        self.say(words).await?;
        self.hear().await
    }
}

async fn redis_behind_a_proxy() -> (Redis, Proxy) {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.port()).await;
    (redis, proxy)
}

#[tokio::test]
async fn a_refusing_proxy_resets_and_refuses_until_it_forwards_again() {
    let (_redis, proxy) = redis_behind_a_proxy().await;
    let mut line = Line::open(&proxy).await.unwrap();
    assert_eq!(line.ask("PING").await.unwrap(), "+PONG");
    proxy.refuse().await;
    assert_eq!(line.hear().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let refused = Line::open(&proxy).await.err().expect("nobody listens");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    proxy.forward().await;
    assert_eq!(Line::open(&proxy).await.unwrap().ask("PING").await.unwrap(), "+PONG");
}

#[tokio::test]
async fn a_cut_resets_what_is_open_and_nothing_else() {
    let (_redis, proxy) = redis_behind_a_proxy().await;
    let mut line = Line::open(&proxy).await.unwrap();
    assert_eq!(line.ask("PING").await.unwrap(), "+PONG");
    proxy.cut().await;
    assert_eq!(line.hear().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(Line::open(&proxy).await.unwrap().ask("PING").await.unwrap(), "+PONG");
}

#[tokio::test]
async fn a_black_hole_keeps_what_it_takes_and_loses_nothing() {
    let (_redis, proxy) = redis_behind_a_proxy().await;
    let mut line = Line::open(&proxy).await.unwrap();
    assert_eq!(line.ask("INCR n").await.unwrap(), ":1");
    proxy.black_hole();
    line.say("INCR n").await.unwrap();
    proxy.until(|seen| seen.held == 1).await;
    assert!(timeout(SILENCE, line.hear()).await.is_err(), "no answer comes out of a black hole");
    assert!(
        timeout(SILENCE, Line::open(&proxy).await.unwrap().ask("PING")).await.is_err(),
        "nor on a new connection"
    );
    proxy.forward().await;
    assert_eq!(line.hear().await.unwrap(), ":2");
}

#[tokio::test]
async fn a_swallowed_answer_was_acted_upon() {
    let (redis, proxy) = redis_behind_a_proxy().await;
    let mut line = Line::open(&proxy).await.unwrap();
    assert_eq!(line.ask("INCR n").await.unwrap(), ":1");
    proxy.swallow_answers();
    line.say("INCR n").await.unwrap();
    proxy.until(|seen| seen.swallowed == ":2\r\n".len() as u64).await;
    proxy.forward().await;
    assert_eq!(
        line.hear().await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset,
        "no torn stream goes on"
    );

    let direct = Proxy::start(redis.port()).await;
    assert_eq!(Line::open(&direct).await.unwrap().ask("GET n").await.unwrap(), "$1\r\n2");
}

#[tokio::test]
async fn a_delayed_answer_arrives_no_sooner() {
    let (_redis, proxy) = redis_behind_a_proxy().await;
    let mut line = Line::open(&proxy).await.unwrap();
    assert_eq!(line.ask("PING").await.unwrap(), "+PONG");
    let delay = Duration::from_millis(200);
    proxy.delay(delay);
    let asked = Instant::now();
    assert_eq!(line.ask("PING").await.unwrap(), "+PONG");
    assert!(asked.elapsed() >= delay);
}

async fn orders_behind_a_proxy() -> (Database, PgConnection, Proxy, PgConnection) {
    let database = postgres::fresh_database().await;
    let mut direct = PgConnection::connect(database.url()).await.unwrap();
    query("CREATE TABLE orders (id int PRIMARY KEY)").execute(&mut direct).await.unwrap();
    let port = database.port();
    let proxy = Proxy::start(port).await;
    let through = PgConnection::connect(&proxy.url(database.url())).await.unwrap();
    (database, direct, proxy, through)
}

async fn orders(connection: &mut PgConnection) -> Vec<i32> {
    query_scalar("SELECT id FROM orders ORDER BY id").fetch_all(connection).await.unwrap()
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_committed() {
    let (_database, mut direct, proxy, mut through) = orders_behind_a_proxy().await;
    let mut trap = proxy.lose_answer("COMMIT");
    let mut transaction = through.begin().await.unwrap();
    query("INSERT INTO orders VALUES (1)").execute(&mut *transaction).await.unwrap();
    assert!(transaction.commit().await.is_err(), "the client cannot know that it is committed");
    trap.sprung().await;
    assert_eq!(orders(&mut direct).await, [1]);
}

#[tokio::test]
async fn a_commit_that_is_lost_is_not_committed() {
    let (_database, mut direct, proxy, mut through) = orders_behind_a_proxy().await;
    let mut trap = proxy.lose_request("COMMIT");
    let mut transaction = through.begin().await.unwrap();
    query("INSERT INTO orders VALUES (1)").execute(&mut *transaction).await.unwrap();
    assert!(transaction.commit().await.is_err());
    trap.sprung().await;
    assert_eq!(orders(&mut direct).await, [0i32; 0]);
}

#[tokio::test]
async fn a_held_commit_comes_late_and_only_then() {
    let (_database, mut direct, proxy, mut through) = orders_behind_a_proxy().await;
    let mut trap = proxy.hold_request("COMMIT");
    let committing = tokio::spawn(async move {
        let mut transaction = through.begin().await.unwrap();
        query("INSERT INTO orders VALUES (1)").execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
    });
    trap.sprung().await;
    assert_eq!(orders(&mut direct).await, [0i32; 0], "the process has decided, and frozen");
    trap.release();
    committing.await.unwrap();
    assert_eq!(orders(&mut direct).await, [1], "and has woken up");
}
