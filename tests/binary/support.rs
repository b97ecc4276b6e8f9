//! Worlds for the program with all of `deploy/`.

use vendor_simulator::Options;

use crate::world::World;
use crate::world::installation::everywhere;

impl World {
    pub(crate) async fn new(prefix: &str) -> Self {
        Self::on(everywhere().await, prefix, Options::default()).await
    }
}
