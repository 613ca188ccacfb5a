//! `warden serve`: runs the gateway until a signal stops it.

use crate::app::Gateway;
use crate::config::ServeArgs;
use crate::shutdown;

pub(super) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let requested = shutdown::requested()?;
    let gateway = Gateway::start(args.into_config()?).await?;
    requested.await;
    gateway.stop().await;
    Ok(())
}
