//! One thread that starts every child process, because the kernel's "kill me when my parent dies" means the *thread*
//! that started the child: started from a worker thread, a server would die with the test or task that asked for it.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// As many starts may wait for their turn; the next one waits before it is queued.
const WAITING_MAX: usize = 16;

struct Request {
    command: Command,
    answer: SyncSender<io::Result<Child>>,
}

// A process has one such thread for all its life; there is nobody to hand it down from, as tests have no `app`.
static THREAD: OnceLock<SyncSender<Request>> = OnceLock::new();

/// Starts `command` from the long-lived thread.
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    let (answer, answered) = sync_channel(1);
    let gone = |_| io::Error::other("the thread that starts servers has ended");
    THREAD.get_or_init(start_thread).send(Request { command, answer }).map_err(|_| gone(()))?;
    answered.recv().map_err(|_| gone(()))?
}

fn start_thread() -> SyncSender<Request> {
    let (sender, receiver) = sync_channel(WAITING_MAX);
    // If the thread cannot be started its receiver is dropped, and `spawn` reports that.
    drop(thread::Builder::new().name("private-servers".to_owned()).spawn(move || serve(&receiver)));
    sender
}

fn serve(requests: &Receiver<Request>) {
    for mut request in requests {
        // A caller that has gone away is no reason to stop starting servers for the others.
        drop(request.answer.send(request.command.spawn()));
    }
}
