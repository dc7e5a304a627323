//! Walking over every key: for counting and for completers.

use super::*;

impl RedisStore {
    /// Calls `visit` with every row until it answers `false`.
    pub(super) async fn each(
        &self,
        mut visit: impl FnMut(KeyId, Dated, Time) -> bool + Send,
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
                    if let (Some(dated), now) = self.read(&id).await?
                        && !visit(id, dated, now)
                    {
                        return Ok(());
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
