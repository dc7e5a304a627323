//! The connection: one server, the master behind Sentinels, or a Cluster.

use super::*;
use redis::cluster::ClusterClient;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::sentinel::{SentinelClient, SentinelServerType};

#[derive(Clone)]
pub(super) enum Link {
    One(ConnectionManager),
    Cluster(ClusterConnection),
}

impl Link {
    pub(super) async fn connect(url: &str) -> Result<Self, StoreError> {
        if let Some(hosts) = url.strip_prefix("redis-cluster://") {
            let nodes: Vec<String> = hosts.split(',').map(|host| format!("redis://{host}")).collect();
            let client = ClusterClient::new(nodes).map_err(unavailable)?;
            return Ok(Self::Cluster(client.get_async_connection().await.map_err(unavailable)?));
        }
        if url.starts_with("rediss://") {
            // The client takes the process's default, and panics where two providers of cryptography are
            // linked and none was chosen. Whoever chose one keeps it.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = match url.strip_prefix("redis-sentinel://") {
            None => redis::Client::open(url).map_err(unavailable)?,
            Some(rest) => {
                let (hosts, master) = rest.split_once('/').ok_or_else(|| {
                    StoreError::new(
                        StoreErrorKind::Settings,
                        "a sentinel's URL names its master: redis-sentinel://host1,host2/master",
                    )
                })?;
                let nodes: Vec<String> = hosts.split(',').map(|host| format!("redis://{host}")).collect();
                let mut sentinels = SentinelClient::build(nodes, master, None, SentinelServerType::Master)
                    .map_err(unavailable)?;
                sentinels.async_get_client().await.map_err(unavailable)?
            }
        };
        // A command whose answer was lost is never sent again by the client: that is for the caller, who
        // knows how to repeat a claim.
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(2)
            .set_connection_timeout(Some(std::time::Duration::from_secs(3)))
            .set_response_timeout(Some(std::time::Duration::from_secs(5)));
        let manager = ConnectionManager::new_with_config(client, config).await.map_err(unavailable)?;
        Ok(Self::One(manager))
    }

    /// The `INFO` of every server that may hold keys, with its address if it is one of a Cluster's.
    pub(super) async fn info(&self) -> Result<Vec<(Node, String)>, StoreError> {
        let info = redis::cmd("INFO");
        let link = match self {
            Self::One(link) => {
                let info = info.query_async(&mut link.clone()).await.map_err(unavailable)?;
                return Ok(vec![(None, info)]);
            }
            Self::Cluster(link) => link,
        };
        let Value::Map(nodes) = link.clone().req_packed_command(&info).await.map_err(unavailable)? else {
            return Err(StoreError::corrupt("redis", "INFO of the cluster"));
        };
        let text = |value| redis::from_redis_value::<String>(value).map_err(|e| unavailable(e.into()));
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
            (Self::Cluster(link), None) => link.clone().req_packed_command(&scan).await,
            (Self::One(link), _) => link.clone().req_packed_command(&scan).await,
        };
        redis::from_redis_value(page.map_err(unavailable)?).map_err(|error| unavailable(error.into()))
    }
}

/// The address of a server in a Cluster; `None` where there is only one.
pub(super) type Node = Option<(String, u16)>;
