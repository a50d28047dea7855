//! The program.

fn main() -> std::process::ExitCode {
    floorcast::cli::main()
}
