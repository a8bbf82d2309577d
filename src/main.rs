//! The binary: everything is in the library, so that tests can start the same program.

/// Many small records are made and dropped on every node; ARCHITECTURE.md says what it saves.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    roster::cli::main()
}
