//! The real program, as tests start it: it ends when the test that started it ends, however that
//! happens.

fn main() -> std::process::ExitCode {
    #[cfg(target_os = "linux")]
    if let Err(e) =
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
    {
        eprintln!("roster-under-test: it may outlive its test: {e}");
    }
    roster::cli::main()
}
