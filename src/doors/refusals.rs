//! How often one address may be refused for its token before it hears nothing but "later". Pure but for its memory.
//!
//! It is asked only when a token has been found wrong, or its right too little; so whoever has the right token is never kept
//! out, however many wrong ones come from the same address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Refusals of one address in one window; further ones are answered 429.
pub const REFUSALS_MAX: u32 = 100;
/// How long a window is.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Addresses that are remembered at one time. Where more are refused within a window, the new ones share its end.
const ADDRESSES_MAX: usize = 1_024;

/// The refusals of the last window, by address.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<HashMap<IpAddr, Window>>);

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    count: u32,
}

impl Refusals {
    /// Notes one refusal. Above the limit: after how long the address may try again.
    #[must_use]
    pub fn note(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= ADDRESSES_MAX && !windows.contains_key(&address) {
            windows.retain(|_, window| now.duration_since(window.began) < WINDOW);
            if windows.len() >= ADDRESSES_MAX {
                return Some(WINDOW);
            }
        }
        let window = windows.entry(address).or_insert(Window { began: now, count: 0 });
        if now.duration_since(window.began) >= WINDOW {
            *window = Window { began: now, count: 0 };
        }
        window.count = window.count.saturating_add(1);
        (window.count > REFUSALS_MAX).then(|| WINDOW.saturating_sub(now.duration_since(window.began)))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_told_to_wait_for_the_end_of_its_window_and_then_begins_anew() {
        let (refusals, began) = (Refusals::default(), Instant::now());
        for _ in 0..REFUSALS_MAX {
            assert_eq!(refusals.note(address(1), began), None);
        }
        let later = began + Duration::from_secs(4);
        assert_eq!(refusals.note(address(1), later), Some(Duration::from_secs(6)));
        assert_eq!(refusals.note(address(2), later), None, "each address has its own");
        assert_eq!(refusals.note(address(1), began + WINDOW), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_addresses_are_remembered_than_there_is_room_for() {
        let (refusals, began) = (Refusals::default(), Instant::now());
        for number in 0..u32::try_from(ADDRESSES_MAX).expect("small") {
            assert_eq!(refusals.note(address(number), began), None);
        }
        assert_eq!(refusals.note(address(999_999), began), Some(WINDOW));
        assert_eq!(refusals.note(address(0), began), None);
        assert_eq!(refusals.note(address(999_999), began + WINDOW), None);
        assert_eq!(refusals.0.lock().expect("whole").len(), 1);
    }
}
