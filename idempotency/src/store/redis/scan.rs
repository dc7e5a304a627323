//! Walking over every key: for counting and for completers.

use super::*;

impl RedisStore {
    /// Calls `visit` with every row that can be read.
    pub(super) async fn each(
        &self,
        mut visit: impl FnMut(KeyId, Dated, Time) + Send,
    ) -> Result<(), StoreError> {
        let pattern = format!("{}*", self.prefix);
        for (node, info) in self.link.info().await? {
            if field(&info, "role") == "slave" {
                continue;
            }
            let mut at = 0;
            loop {
                let (next, keys) = self.link.scan(&node, at, &pattern).await?;
                for key in keys {
                    let Some(id) = key.strip_prefix(&self.prefix).and_then(KeyId::from_hex) else { continue };
                    match self.read(&id).await {
                        Ok((Some(dated), now)) => visit(id, dated, now),
                        Ok((None, _)) => {}
                        Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                            tracing::warn!(key = ?id, %error, "a row is passed over");
                        }
                        Err(error) => return Err(error),
                    }
                }
                if next == 0 {
                    break;
                }
                at = next;
            }
        }
        Ok(())
    }
}
