#[derive(clap::Args)]
pub(super) struct DevArgs {}
pub(super) async fn run(_a: DevArgs) -> anyhow::Result<()> {
    Ok(())
}
