//! Packets of the MySQL protocol: a head of four bytes, which are a length and a number, and what follows it.
//!
//! *Order.* The packets of one exchange are numbered from 0, those of both sides together; a packet with another number
//! is refused. A packet that fills its head goes on in the next one.
//!
//! *Limits.* Memory follows what has arrived, never what a length says. A packet is read where it lies; one that goes
//! on is put together, and one that would be longer than agreed is refused before it is read.

use std::{io, ops::Range};

use mysql_async::{DriverError, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::server_error;

/// Bytes that are read at once.
const READ_BYTES: usize = 256 << 10;
/// Bytes of a packet's head.
const HEAD_BYTES: usize = 4;
/// Bytes that one packet holds; one that holds so many goes on.
const PART_BYTES_MAX: usize = 0xFF_FFFF;

/// Reads and writes packets.
pub(super) struct Packets<S> {
    stream: S,
    buffer: Vec<u8>,
    /// What has arrived and was not taken.
    arrived: Range<usize>,
    /// A packet that goes on.
    long: Vec<u8>,
    /// The number of the next packet, whoever sends it.
    number: u8,
    bytes_max: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Packets<S> {
    /// Begins an exchange, whose next packet has this number. No packet may be longer than `bytes_max`.
    pub fn new(stream: S, number: u8, bytes_max: usize) -> Self {
        Self { stream, buffer: vec![0; READ_BYTES], arrived: 0..0, long: Vec::new(), number, bytes_max }
    }

    /// Returns the stream and the number of the next packet, for an exchange that goes on encrypted.
    pub fn into_stream(self) -> Result<(S, u8)> {
        if !self.arrived.is_empty() {
            // It came unencrypted, and would be read as if it had not.
            return Err(broken("the server sent more than its greeting"));
        }
        Ok((self.stream, self.number))
    }

    /// Sends a command, and with it begins another exchange.
    pub async fn command(&mut self, payload: &[u8]) -> Result<()> {
        self.number = 0;
        self.send(payload).await
    }

    /// Sends a packet.
    pub async fn send(&mut self, payload: &[u8]) -> Result<()> {
        let mut bytes = Vec::with_capacity(payload.len() + HEAD_BYTES);
        let mut rest = payload;
        loop {
            let (part, more) = rest.split_at(rest.len().min(PART_BYTES_MAX));
            let [low, middle, high, ..] = part.len().to_le_bytes();
            bytes.extend_from_slice(&[low, middle, high, self.number]);
            bytes.extend_from_slice(part);
            self.number = self.number.wrapping_add(1);
            if part.len() < PART_BYTES_MAX {
                break;
            }
            rest = more;
        }
        self.stream.write_all(&bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// Returns the next packet.
    pub async fn next(&mut self) -> Result<&[u8]> {
        if self.long.capacity() > 0 {
            self.long = Vec::new();
        }
        let part = match self.arrived_part()? {
            Some(part) => part,
            None => self.part().await?,
        };
        if part.len() < PART_BYTES_MAX {
            return Ok(&self.buffer[part]);
        }
        self.long.extend_from_slice(&self.buffer[part]);
        loop {
            let part = self.part().await?;
            let is_last = part.len() < PART_BYTES_MAX;
            self.long.extend_from_slice(&self.buffer[part]);
            if is_last {
                return Ok(&self.long);
            }
        }
    }

    /// Returns where the next part of a packet lies, waiting for it.
    async fn part(&mut self) -> Result<Range<usize>> {
        loop {
            if let Some(part) = self.arrived_part()? {
                return Ok(part);
            }
            self.fill().await?;
        }
    }

    /// Takes the next part of a packet, if all of it has arrived.
    fn arrived_part(&mut self) -> Result<Option<Range<usize>>> {
        let Range { start, end } = self.arrived;
        let Some(&[low, middle, high, number]) = self.buffer[start..end].first_chunk() else {
            return Ok(None);
        };
        let part_bytes = usize::from(low) | usize::from(middle) << 8 | usize::from(high) << 16;
        if self.long.len() + part_bytes > self.bytes_max {
            return Err(DriverError::PacketTooLarge.into());
        }
        let part = start + HEAD_BYTES..start + HEAD_BYTES + part_bytes;
        if part.end > end {
            return Ok(None);
        }
        if number != self.number {
            // What a server says before it hangs up belongs to no exchange.
            let told = server_error(&self.buffer[part]).filter(|_| number == 0);
            return Err(told.unwrap_or_else(|| DriverError::PacketOutOfOrder.into()));
        }
        self.number = self.number.wrapping_add(1);
        self.arrived.start = part.end;
        Ok(Some(part))
    }

    /// Reads more, behind what has arrived.
    async fn fill(&mut self) -> Result<()> {
        self.buffer.copy_within(self.arrived.clone(), 0);
        self.arrived = 0..self.arrived.len();
        if self.arrived.is_empty() && self.buffer.len() > READ_BYTES {
            // It had grown for one packet.
            self.buffer = vec![0; READ_BYTES];
        } else if self.arrived.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let count = self.stream.read(&mut self.buffer[self.arrived.end..]).await?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed").into());
        }
        self.arrived.end += count;
        Ok(())
    }
}

/// Says how a server broke the rules of the protocol.
pub(super) fn broken(how: impl Into<String>) -> mysql_async::Error {
    io::Error::new(io::ErrorKind::InvalidData, how.into()).into()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn reading(sent: Vec<u8>, bytes_max: usize) -> Packets<impl AsyncRead + AsyncWrite + Unpin> {
        Packets::new(tokio::io::join(io::Cursor::new(sent), tokio::io::sink()), 0, bytes_max)
    }

    pub fn packet(number: u8, payload: &[u8]) -> Vec<u8> {
        let [low, middle, high, ..] = payload.len().to_le_bytes();
        [&[low, middle, high, number], payload].concat()
    }

    #[tokio::test]
    async fn packets_are_read_wherever_the_reads_cut_them() {
        let sizes: Vec<usize> = (0..300_usize).map(|n| n * n * 7 % 9000).collect();
        let all = sizes.iter().enumerate();
        let sent: Vec<u8> = all.flat_map(|(n, size)| packet(n as u8, &vec![n as u8; *size])).collect();
        let mut packets = reading(sent, 1 << 20);
        for (n, size) in sizes.iter().enumerate() {
            assert_eq!(packets.next().await.unwrap(), vec![n as u8; *size]);
        }
        let error = packets.next().await.unwrap_err();
        assert!(error.to_string().contains("connection closed"), "{error}");
    }

    #[tokio::test]
    async fn a_packet_that_fills_its_head_goes_on_in_the_next() {
        let payload: Vec<u8> = (0..PART_BYTES_MAX + 5).map(|n| (n % 251) as u8).collect();
        let (first, second) = payload.split_at(PART_BYTES_MAX);
        let sent = [packet(0, first), packet(1, second), packet(2, first), packet(3, b""), packet(4, b"x")];
        let mut packets = reading(sent.concat(), 1 << 30);
        assert!(packets.next().await.unwrap() == payload);
        assert!(packets.next().await.unwrap() == first);
        assert_eq!(packets.next().await.unwrap(), b"x");
        assert!(packets.long.capacity() == 0, "what was put together is let go");
    }

    #[tokio::test]
    async fn what_is_sent_in_parts_reads_as_it_was() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let payload = vec![7; PART_BYTES_MAX];
        let (mut sender, mut reader) = (Packets::new(ours, 9, 1), Packets::new(theirs, 0, 1 << 30));
        let (sent, read) = tokio::join!(sender.command(&payload), reader.next());
        assert!(sent.is_ok() && read.unwrap() == payload);
    }

    #[tokio::test]
    async fn a_packet_that_is_too_long_is_refused_before_it_is_read() {
        for sent in
            [vec![0xFF, 0xFF, 0x7F, 0], [packet(0, &vec![0; PART_BYTES_MAX]), vec![2, 0, 0, 1]].concat()]
        {
            let bytes_max = if sent.len() < 5 { 1 << 20 } else { PART_BYTES_MAX + 1 };
            let error = reading(sent, bytes_max).next().await.unwrap_err();
            assert!(matches!(error, mysql_async::Error::Driver(DriverError::PacketTooLarge)), "{error}");
        }
    }

    #[tokio::test]
    async fn a_length_that_lies_takes_no_memory() {
        let mut packets = reading(vec![0xFE, 0xFF, 0xFF, 0, 1], 1 << 30);
        packets.next().await.unwrap_err();
        assert_eq!(packets.buffer.len(), READ_BYTES);
    }

    #[tokio::test]
    async fn a_packet_with_another_number_is_refused_unless_the_server_says_goodbye() {
        let error = reading(packet(1, b"x"), 1 << 20).next().await.unwrap_err();
        assert!(matches!(error, mysql_async::Error::Driver(DriverError::PacketOutOfOrder)), "{error}");
        let sent = [packet(0, b"x"), packet(0, b"\xFF\xD7\x0F#HY000Idle for too long")].concat();
        let mut packets = reading(sent, 1 << 20);
        packets.next().await.unwrap();
        let error = packets.next().await.unwrap_err();
        assert!(matches!(&error, mysql_async::Error::Server(told) if told.code == 4055), "{error}");
    }
}
