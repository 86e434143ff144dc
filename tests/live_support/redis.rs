//! A connection of a test to a Redis server, which waits longer than the client would by itself.
//!
//! The client gives up a connection after a second and an answer after half a second: short where two cores do
//! everything at once.

use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, RedisResult, aio::MultiplexedConnection};

/// Connects, and waits half a minute for that and for each answer.
pub async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    let limit = Some(Duration::from_secs(30));
    let patient = AsyncConnectionConfig::new().set_connection_timeout(limit).set_response_timeout(limit);
    client.get_multiplexed_async_connection_with_config(&patient).await
}
