//! The leased guarantee against what each store can do: claim and completion, and replays.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use idempotency::{
    Answer, Claim, ClaimRequest, Fingerprint, Held, KeyId, PostgresStore, Secret, Store, Verdict, sqlx, store,
};

use crate::measure::{Outcome, compare};

const KEEP: Duration = Duration::from_secs(3600);

/// The digest of a request is the layer's work, not the store's: it is made once.
fn request(id: KeyId) -> ClaimRequest {
    static PRINT: LazyLock<Fingerprint> =
        LazyLock::new(|| Fingerprint::new(&Secret::new([1; 32]), b"POST", b"/charges", b"{}"));
    ClaimRequest::new(id, *PRINT)
}

async fn first(store: Arc<dyn Store>) {
    let Ok(Claim::Acquired(ticket)) = store.claim(&request(KeyId(rand::random()))).await else {
        panic!("a fresh key is acquired")
    };
    let answer = Answer::new(201, vec![b'x'; 512]).encode();
    let held = store.complete(&ticket, Verdict::Applied, answer, KEEP).await;
    assert_eq!(held.expect("the store answers"), Held::Yes);
}

async fn replay(store: Arc<dyn Store>, id: KeyId) {
    assert!(matches!(store.claim(&request(id)).await, Ok(Claim::Replay(_))));
}

async fn kept(store: &Arc<dyn Store>) -> Outcome<KeyId> {
    let id = KeyId(rand::random());
    let Claim::Acquired(ticket) = store.claim(&request(id)).await? else { return Err("not acquired".into()) };
    let _ =
        store.complete(&ticket, Verdict::Applied, Answer::new(201, vec![b'x'; 512]).encode(), KEEP).await?;
    Ok(id)
}

pub(crate) async fn postgres(url: &str) -> Outcome {
    let own = PostgresStore::connect(url).await?;
    let pool = own.pool().clone();
    for table in
        ["DROP TABLE IF EXISTS bare", "CREATE TABLE bare (id bytea PRIMARY KEY, state int, answer bytea)"]
    {
        sqlx::query(table).execute(&pool).await?;
    }
    let store: Arc<dyn Store> = Arc::new(own);
    for tasks in [1, 16] {
        let (limit, ours) = (pool.clone(), store.clone());
        let bare = move || {
            let pool = limit.clone();
            async move {
                let id: [u8; 32] = rand::random();
                let insert = sqlx::query("INSERT INTO bare VALUES ($1, 1, NULL)").bind(id.to_vec());
                insert.execute(&pool).await.expect("the server answers");
                let update = sqlx::query("UPDATE bare SET state = 2, answer = $2 WHERE id = $1");
                update
                    .bind(id.to_vec())
                    .bind(vec![b'x'; 512])
                    .execute(&pool)
                    .await
                    .expect("the server answers");
            }
        };
        let limit = ("bare INSERT, UPDATE", bare);
        compare(
            "postgres, leased, first call",
            tasks,
            limit,
            ("claim, complete", move || first(ours.clone())),
        )
        .await;
        let id = kept(&store).await?;
        let (limit, ours) = (pool.clone(), store.clone());
        let select = move || {
            let pool = limit.clone();
            async move {
                let select = sqlx::query("SELECT * FROM idempotency.keys WHERE id = $1").bind(id.0.to_vec());
                select.fetch_one(&pool).await.expect("the row is there");
            }
        };
        let ours = ("replay", move || replay(ours.clone(), id));
        compare("postgres, leased, replay", tasks, ("bare SELECT", select), ours).await;
    }
    Ok(())
}

pub(crate) async fn redis(url: &str) -> Outcome {
    let store = store::connect(url).await?;
    let client = redis::Client::open(url)?;
    let link = redis::aio::ConnectionManager::new(client).await?;
    let id = kept(&store).await?;
    for tasks in [1, 50] {
        let (limit, ours) = (link.clone(), store.clone());
        let set = move || {
            let mut link = limit.clone();
            async move {
                let key: [u8; 32] = rand::random();
                let mut set = redis::cmd("SET");
                set.arg(&key[..]).arg(vec![b'x'; 128]).arg("NX").arg("PX").arg(600_000);
                set.query_async::<()>(&mut link).await.expect("the server answers");
            }
        };
        let claim = move || {
            let store = ours.clone();
            async move {
                let claim = store.claim(&request(KeyId(rand::random()))).await;
                assert!(matches!(claim, Ok(Claim::Acquired(_))));
            }
        };
        compare("redis, leased, claim", tasks, ("SET NX PX", set), ("claim", claim)).await;
        let (limit, ours) = (link.clone(), store.clone());
        let get = move || {
            let mut link = limit.clone();
            async move {
                let key = format!("idempotency:{id}");
                let value: Vec<u8> =
                    redis::cmd("GET").arg(key).query_async(&mut link).await.expect("it answers");
                assert!(!value.is_empty());
            }
        };
        compare("redis, leased, replay", tasks, ("GET", get), ("replay", move || replay(ours.clone(), id)))
            .await;
    }
    Ok(())
}

pub(crate) async fn sqlite(url: &str) -> Outcome {
    let own = idempotency::SqliteStore::connect(url).await?;
    let pool = own.pool().clone();
    for table in
        ["DROP TABLE IF EXISTS bare", "CREATE TABLE bare (id BLOB PRIMARY KEY, state INT, answer BLOB)"]
    {
        sqlx::query(table).execute(&pool).await?;
    }
    let store: Arc<dyn Store> = Arc::new(own);
    for tasks in [1, 8, 64] {
        let (limit, ours) = (pool.clone(), store.clone());
        let bare = move || {
            let pool = limit.clone();
            async move {
                let id: [u8; 32] = rand::random();
                let insert = sqlx::query("INSERT INTO bare VALUES ($1, 1, NULL)").bind(id.to_vec());
                insert.execute(&pool).await.expect("the file can be written");
                let update = sqlx::query("UPDATE bare SET state = 2, answer = $2 WHERE id = $1");
                update
                    .bind(id.to_vec())
                    .bind(vec![b'x'; 512])
                    .execute(&pool)
                    .await
                    .expect("it can be written");
            }
        };
        let limit = ("bare INSERT, UPDATE", bare);
        compare("sqlite, leased, first call", tasks, limit, ("claim, complete", move || first(ours.clone())))
            .await;
    }
    Ok(())
}
