//! A pace: how fast bytes may leave, whoever sends them.
//!
//! A body leaves in blocks, and each block waits for its turn. So a line is filled evenly, and not with a whole pack at
//! once and then a pause, and those who send at the same time share the pace block by block. The time is tokio's, which
//! a test may stop.
//!
//! *Limits.* [`BLOCK_BYTES`] go out in one piece; who was slower than allowed may make up for [`CREDIT`].

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::time::{Instant, sleep_until};

/// Bytes that leave in one piece.
pub const BLOCK_BYTES: usize = 64 * 1024;
/// How much time that was not used may be made up for. Timers are not exact, and a disk or a line stalls at times:
/// without any credit the pace would never be reached.
pub const CREDIT: Duration = Duration::from_millis(100);

/// A pace. Clones share it.
#[derive(Clone, Debug)]
pub struct Pace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes_per_second: u64,
    /// When the next block may leave.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// Allows so many bytes a second, one at least.
    pub fn new(bytes_per_second: u64) -> Self {
        Self(Arc::new(Inner { bytes_per_second: bytes_per_second.max(1), next: Mutex::default() }))
    }

    /// Waits until so many bytes may leave. Whoever asks first goes first.
    pub async fn wait(&self, bytes: usize) {
        let turn = self.reserve(bytes, Instant::now());
        sleep_until(turn).await;
    }

    /// Takes the next turn for so many bytes, and returns when it is.
    pub(super) fn reserve(&self, bytes: usize, now: Instant) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / self.0.bytes_per_second as f64);
        let mut next = self.0.next.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(CREDIT).unwrap_or(now);
        let turn = next.map_or(now, |next| next.max(earliest));
        *next = Some(turn + takes);
        turn
    }
}

/// Returns a body block by block, each when it may leave; without a pace all of it at once.
pub(super) fn blocks(body: Bytes, pace: Option<Pace>) -> impl Stream<Item = Bytes> + Send + 'static {
    let size = if pace.is_some() { BLOCK_BYTES } else { body.len() };
    stream::unfold((body, pace), move |(mut left, pace)| async move {
        if left.is_empty() {
            return None;
        }
        let block = left.split_to(size.min(left.len()));
        if let Some(pace) = &pace {
            pace.wait(block.len()).await;
        }
        Some((block, (left, pace)))
    })
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt, future::join_all};

    use super::*;

    const MIB: usize = 1 << 20;

    fn body(size_bytes: usize) -> Bytes {
        vec![7; size_bytes].into()
    }

    /// Sends a body and returns when each block left, counted from the beginning, and how long it was.
    async fn sent(body: Bytes, pace: Option<Pace>) -> Vec<(Duration, usize)> {
        let began = Instant::now();
        blocks(body, pace).map(|block| (began.elapsed(), block.len())).collect().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_leaves_evenly_and_never_faster_than_allowed() {
        let all = sent(body(8 * MIB), Some(Pace::new(2 * MIB as u64))).await;
        assert_eq!(all.iter().map(|(_, bytes)| bytes).sum::<usize>(), 8 * MIB);
        let end = all.last().unwrap().0;
        assert!(end > Duration::from_millis(3900) && end < Duration::from_millis(4100), "{end:?}");
        for (at, from) in all.iter().enumerate() {
            // What leaves within any half of a second, from each block on.
            let within = all[at..].iter().take_while(|one| one.0 < from.0 + Duration::from_millis(500));
            let bytes: usize = within.map(|(_, bytes)| bytes).sum();
            let allowed = MIB + 2 * BLOCK_BYTES + MIB / 5;
            assert!(bytes <= allowed, "{bytes} bytes left within half a second from {:?} on", from.0);
        }
        let gaps = all.windows(2).map(|two| two[1].0.saturating_sub(two[0].0));
        assert!(gaps.max().unwrap() < Duration::from_millis(50), "there is no pause on the way");
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_at_the_same_time_shares_the_pace_evenly() {
        let (pace, began) = (Pace::new(MIB as u64), Instant::now());
        let ends = (0..4).map(|_| {
            let pace = pace.clone();
            async move {
                sent(body(MIB), Some(pace)).await;
                began.elapsed()
            }
        });
        for end in join_all(ends).await {
            assert!(end > Duration::from_millis(3500) && end < Duration::from_millis(4100), "{end:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_rest_is_no_credit_for_a_burst() {
        let pace = Pace::new(MIB as u64);
        sent(body(MIB), Some(pace.clone())).await;
        tokio::time::advance(Duration::from_hours(1)).await;
        let all = sent(body(2 * MIB), Some(pace)).await;
        let end = all.last().unwrap().0;
        assert!(end > Duration::from_millis(1800), "{end:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_nobody_sends_on_costs_the_others_one_block_at_most() {
        let pace = Pace::new(MIB as u64);
        let mut given_up = Box::pin(blocks(body(64 * MIB), Some(pace.clone())));
        assert!(given_up.next().now_or_never().flatten().is_some());
        assert!(given_up.next().now_or_never().is_none(), "it waits for its turn");
        drop(given_up);
        let end = sent(body(MIB), Some(pace)).await.last().unwrap().0;
        assert!(end < Duration::from_millis(1200), "{end:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_pace_a_body_leaves_whole_and_at_once() {
        assert_eq!(sent(body(3 * MIB), None).await, [(Duration::ZERO, 3 * MIB)]);
        assert_eq!(sent(Bytes::new(), Some(Pace::new(1))).await, []);
    }
}
