//! The allocator, and that it gives back what is not used.
//!
//! A record is made of a dozen small pieces, which one thread allocates and another one frees, here and in
//! librdkafka: with glibc's allocator that was half of all the work. mimalloc replaces `malloc` for both.
//! By itself it keeps what was freed for a while, which costs half as much memory again.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// It reads these before `main` begins. Whoever sets one of them himself is left alone.
const OPTIONS: [(&str, &str); 2] = [("MIMALLOC_PURGE_DELAY", "0"), ("MIMALLOC_ARENA_EAGER_COMMIT", "0")];

/// Replaces this process by itself with the allocator's options set, unless they are. Under the same process id,
/// before there is anything else to be kept. A system that does not allow it is served less frugally.
pub(crate) fn begin_again_frugal() {
    if OPTIONS.iter().any(|(name, _)| std::env::var_os(name).is_some()) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| program.clone().into());
    let _failed = Command::new(program).arg0(name).args(arguments).envs(OPTIONS).exec();
}
