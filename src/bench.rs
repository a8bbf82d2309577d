pub mod http;
#[derive(Debug, clap::Args)]
pub struct Bench {}
pub async fn run(_b: Bench) -> Result<(), String> {
    Ok(())
}
