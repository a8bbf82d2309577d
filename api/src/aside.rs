//! What takes long is done aside: on threads that let all others go first, so many at once, and no
//! longer than somebody waits for it.

use std::future::Future;

use tokio::sync::oneshot;

use crate::Api;
use crate::error::ApiError;
use crate::registry::{IfBusy, Unavailable};

/// An answer about so many things is made at once; one about more is made aside. Changing threads
/// costs about as much as to write ten of them.
pub(crate) const LIGHT: usize = 256;

impl Api {
    /// Does what takes long; refused with `overloaded` where too much of it waits. Never for what waits
    /// for the leader or for a change: it would keep others from their turn.
    pub async fn aside<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.do_aside(work, IfBusy::Refuse).await.map_err(ApiError::of_read)
    }

    /// Does what takes long and was begun: it waits for its turn.
    pub async fn aside_in_turn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.do_aside(work, IfBusy::Wait).await
    }

    async fn do_aside<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
        if_busy: IfBusy,
    ) -> Result<T, Unavailable> {
        let (done, result) = oneshot::channel();
        let work = async move {
            // Who hung up needs no result.
            drop(done.send(work.await));
        };
        self.registry.aside(Box::pin(work), if_busy).await?;
        result.await.map_err(|_| Unavailable::Unknown("this node failed at it".into()))
    }
}
