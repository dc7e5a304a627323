//! The connection: one server, the master behind Sentinels, or a Cluster.
//!
//! A command whose answer was lost is never sent again by a single server's or a Sentinel's link: that is for the
//! caller, who knows how to repeat a claim. A Cluster's client repeats by itself, which every script here allows.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{Cmd, Pipeline, RedisConnectionInfo, RedisFuture, Value};

use super::clock::Clock;
use super::sentinel::Master;
use super::unavailable;
use crate::store::{StoreError, StoreErrorKind};

/// How long an answer is awaited.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may take.
pub(super) const CONNECTED_WITHIN: Duration = Duration::from_secs(3);

#[derive(Clone)]
pub(super) enum Link {
    One(ConnectionManager),
    Sentinel(Master),
    Cluster(ClusterConnection),
}

impl Link {
    pub(super) async fn connect(url: &str, clock: &Arc<Clock>) -> Result<Self, StoreError> {
        if let Some(rest) = url.strip_prefix("redis-cluster://") {
            return Self::cluster(rest).await;
        }
        if let Some(rest) = url.strip_prefix("redis-sentinel://") {
            return Self::sentinel(rest, clock.clone()).await;
        }
        if url.starts_with("rediss://") {
            // The client takes the process's default, and panics where two providers of cryptography are
            // linked and none was chosen. Whoever chose one keeps it.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = redis::Client::open(url).map_err(unavailable)?;
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(2)
            .set_connection_timeout(Some(CONNECTED_WITHIN))
            .set_response_timeout(Some(PATIENCE));
        let manager = ConnectionManager::new_with_config(client, config).await.map_err(unavailable)?;
        Ok(Self::One(manager))
    }

    /// `[user:password@]host1,host2`
    async fn cluster(rest: &str) -> Result<Self, StoreError> {
        let (credentials, hosts) = credentials(rest);
        let nodes = hosts.split(',').map(|host| format!("redis://{credentials}{host}"));
        let client = ClusterClient::builder(nodes)
            .connection_timeout(CONNECTED_WITHIN)
            .response_timeout(PATIENCE)
            .overall_response_timeout(Some(PATIENCE))
            .build()
            .map_err(unavailable)?;
        Ok(Self::Cluster(client.get_async_connection().await.map_err(unavailable)?))
    }

    /// `[user:password@]host1,host2/master`: the credentials are the master's.
    async fn sentinel(rest: &str, clock: Arc<Clock>) -> Result<Self, StoreError> {
        let (credentials, rest) = credentials(rest);
        let (hosts, name) = rest.split_once('/').filter(|(_, name)| !name.is_empty()).ok_or_else(|| {
            StoreError::new(
                StoreErrorKind::Settings,
                "a sentinel's URL names its master: redis-sentinel://host1,host2/master",
            )
        })?;
        let nodes: Vec<String> = hosts.split(',').map(|host| format!("redis://{host}")).collect();
        let of_master = account(credentials)
            .map(|account| SentinelNodeConnectionInfo::default().set_redis_connection_info(account));
        let sentinels = SentinelClient::build(nodes, name, of_master, SentinelServerType::Master);
        let master = Master::new(sentinels.map_err(unavailable)?, clock);
        // Found now, so that a wrong name is an error at start.
        master.connection().await.map_err(unavailable)?;
        Ok(Self::Sentinel(master))
    }

    /// The `INFO` of every server that may hold keys, with its address if it is one of a Cluster's.
    pub(super) async fn info(&self) -> Result<Vec<(Node, String)>, StoreError> {
        let answer = self.clone().req_packed_command(&redis::cmd("INFO")).await.map_err(unavailable)?;
        let text = |value| redis::from_redis_value::<String>(value).map_err(|e| unavailable(e.into()));
        if !matches!(self, Self::Cluster(_)) {
            return Ok(vec![(None, text(answer)?)]);
        }
        let Value::Map(nodes) = answer else {
            return Err(StoreError::corrupt("redis", "INFO of the cluster"));
        };
        let node = |(address, info)| {
            let address = text(address)?;
            let (host, port) =
                address.rsplit_once(':').ok_or_else(|| StoreError::corrupt("redis", "node address"))?;
            let port = port.parse().map_err(|_| StoreError::corrupt("redis", "node address"))?;
            Ok((Some((host.to_owned(), port)), text(info)?))
        };
        nodes.into_iter().map(node).collect()
    }

    /// One page of keys of one server, and where the next page begins; 0 is the end.
    pub(super) async fn scan(
        &self,
        node: &Node,
        at: u64,
        pattern: &str,
    ) -> Result<(u64, Vec<String>), StoreError> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(at).arg("MATCH").arg(pattern).arg("COUNT").arg(500);
        let page = match (self, node) {
            (Self::Cluster(link), Some((host, port))) => {
                let node = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port: *port };
                link.clone().route_command(scan, RoutingInfo::SingleNode(node)).await
            }
            (link, _) => link.clone().req_packed_command(&scan).await,
        };
        redis::from_redis_value(page.map_err(unavailable)?).map_err(|error| unavailable(error.into()))
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        let master = match self {
            Self::One(link) => return link.req_packed_command(cmd),
            Self::Cluster(link) => return link.req_packed_command(cmd),
            Self::Sentinel(master) => master,
        };
        Box::pin(async move {
            let (number, mut connection) = master.connection().await?;
            connection.req_packed_command(cmd).await.inspect_err(|error| master.judge(number, error))
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let master = match self {
            Self::One(link) => return link.req_packed_commands(pipeline, offset, count),
            Self::Cluster(link) => return link.req_packed_commands(pipeline, offset, count),
            Self::Sentinel(master) => master,
        };
        Box::pin(async move {
            let (number, mut connection) = master.connection().await?;
            let answers = connection.req_packed_commands(pipeline, offset, count).await;
            answers.inspect_err(|error| master.judge(number, error))
        })
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(link) => link.get_db(),
            Self::Cluster(link) => link.get_db(),
            Self::Sentinel(_) => 0,
        }
    }
}

/// The address of a server in a Cluster; `None` where there is only one.
pub(super) type Node = Option<(String, u16)>;

/// `user:password@`, if it is there, and the rest.
fn credentials(rest: &str) -> (&str, &str) {
    rest.rfind('@').map_or(("", rest), |at| rest.split_at(at + 1))
}

fn account(credentials: &str) -> Option<RedisConnectionInfo> {
    let (user, password) = credentials.strip_suffix('@')?.split_once(':')?;
    let account = RedisConnectionInfo::default().set_password(password);
    Some(if user.is_empty() { account } else { account.set_username(user) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stand_before_the_hosts() {
        assert_eq!(credentials("u:p@a:1,b:2/m"), ("u:p@", "a:1,b:2/m"));
        assert_eq!(credentials("a:1,b:2/m"), ("", "a:1,b:2/m"));
        assert!(account("").is_none());
        assert_eq!(account(":p@").unwrap().username(), None);
        assert_eq!(account("u:p@").unwrap().username(), Some("u"));
    }
}
