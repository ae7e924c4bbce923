//! What one session is subscribed to.

use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};

use base::{MessageRef, Offset, QoS, TopicFilter};

/// Deepest topic filter, in levels: bounds the recursion of the subscription trie.
pub(crate) const FILTER_LEVELS_MAX: usize = 128;

/// Bytes of all topic filters of one session: bounds its row.
pub(crate) const FILTER_BYTES_MAX: usize = 1024 * 1024;

/// One subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) filter: TopicFilter,
    pub(crate) options: Options,
}

/// How a subscription delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// The highest quality of service granted.
    pub(crate) qos: QoS,
    /// Whether the client's own messages stay away.
    pub(crate) no_local: bool,
    /// Whether messages keep the retain flag they were published with.
    pub(crate) retain_as_published: bool,
    /// What the client wants to know its messages by (MQTT 5, 3.8.2.1.2).
    pub(crate) identifier: Option<NonZeroU32>,
    /// Records before this offset were logged before the subscription was made.
    pub(crate) from: Offset,
}

impl Options {
    /// Everything, at most at this quality of service.
    pub(crate) fn plain(qos: QoS, from: Offset) -> Options {
        Options { qos, no_local: false, retain_as_published: false, identifier: None, from }
    }

    /// The quality of service at which a record is delivered, if at all. The caller has
    /// matched the topic.
    pub(crate) fn select(
        &self,
        offset: Offset,
        message: &MessageRef<'_>,
        subscriber: &str,
    ) -> Option<QoS> {
        if offset < self.from || (self.no_local && message.client_id == subscriber) {
            return None;
        }
        Some(self.qos.min(message.qos))
    }
}

/// All subscriptions of a session; cheap to hand to a reading thread.
pub(crate) type Subscriptions = Arc<Vec<Subscription>>;

/// No subscriptions; one copy for the many clients that only publish.
pub(crate) static NONE: LazyLock<Subscriptions> = LazyLock::new(Arc::default);

/// See [`NONE`].
pub(crate) fn none() -> Subscriptions {
    Arc::clone(&NONE)
}

/// The quality of service at which a session gets a record: the highest of all subscriptions
/// that match, so that overlapping ones deliver once (MQTT 5, 3.3.4).
pub(crate) fn select(
    subscriptions: &[Subscription],
    offset: Offset,
    message: &MessageRef<'_>,
    subscriber: &str,
) -> Option<QoS> {
    subscriptions
        .iter()
        .filter(|subscription| subscription.filter.matches(message.topic))
        .filter_map(|subscription| subscription.options.select(offset, message, subscriber))
        .max()
}
