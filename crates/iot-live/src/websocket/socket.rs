//! A connection after the handshake.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::{Opcode, header};
use super::read::{Fault, Limits, Reader};
use super::{Kind, Received};

/// Read at once, on the stack: nothing is kept between two reads unless a message is incomplete.
const READ: usize = 4 << 10;

/// A client's connection. One task alone reads and writes it.
#[derive(Debug)]
pub(crate) struct Socket<S> {
    stream: S,
    reader: Reader,
    /// What has arrived behind the last message.
    rest: Bytes,
    /// The frame that is being written.
    out: Outgoing,
    /// The answer to the last ping, behind it: earlier ones need none (section 5.5.3).
    pong: Option<Bytes>,
    /// The payload of the last frame, behind both.
    close: Option<Bytes>,
    /// Whether there is a last frame, so that nothing may follow.
    is_closing: bool,
}

/// A frame, and how much of it is written.
#[derive(Debug, Default)]
struct Outgoing {
    header: [u8; 10],
    header_size: usize,
    payload: Bytes,
    written: usize,
}

impl Outgoing {
    fn new(opcode: Opcode, payload: Bytes) -> Self {
        let (header, header_size) = header(opcode, payload.len());
        Self {
            header,
            header_size,
            payload,
            written: 0,
        }
    }

    /// What is not written yet.
    fn parts(&self) -> (&[u8], &[u8]) {
        let header = &self.header[..self.header_size];
        (
            header.get(self.written..).unwrap_or_default(),
            &self.payload[self.written.saturating_sub(self.header_size)..],
        )
    }

    fn is_written(&self) -> bool {
        self.written == self.header_size + self.payload.len()
    }
}

impl<S> Socket<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub(crate) fn new(stream: S, limits: Limits) -> Self {
        Self {
            stream,
            reader: Reader::new(limits),
            rest: Bytes::new(),
            out: Outgoing::default(),
            pong: None,
            close: None,
            is_closing: false,
        }
    }

    /// The next message, or `None` if the client ends the connection. Answers pings and the end.
    /// Cancel safe.
    ///
    /// # Errors
    /// Nothing more can be read.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Sends a message, after what has not been written yet. If this is cancelled, the rest of
    /// the message precedes the next one.
    ///
    /// # Errors
    /// The connection is lost, or closing.
    pub(crate) async fn send(&mut self, kind: Kind, payload: Bytes) -> io::Result<()> {
        let opcode = match kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        };
        if !self.is_flushed() {
            self.flush().await?;
        }
        if self.is_closing {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.out = Outgoing::new(opcode, payload);
        self.flush().await
    }

    /// Sends the last frame; the reason has at most 123 bytes.
    ///
    /// # Errors
    /// The connection is lost.
    pub(crate) async fn close(&mut self, code: u16, reason: &str) -> io::Result<()> {
        let mut payload = BytesMut::with_capacity(2 + reason.len());
        payload.put_u16(code);
        payload.put_slice(reason.as_bytes());
        self.end(payload.freeze());
        self.flush().await
    }

    /// Writes all that waits.
    ///
    /// # Errors
    /// The connection is lost.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Reads and forgets what the client sends, until it ends the connection: closing with
    /// something unread would reset it, and the client might not see why it ends.
    ///
    /// # Errors
    /// The connection is lost.
    pub(crate) async fn drain(&mut self) -> io::Result<()> {
        poll_fn(|cx| {
            loop {
                if ready!(poll_read(&mut self.stream, cx, <[u8]>::len))? == 0 {
                    return Poll::Ready(Ok(()));
                }
            }
        })
        .await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Vec<u8>>, Fault>> {
        loop {
            // What blocks is tried again when something was read or can be written.
            if !self.is_flushed()
                && let Poll::Ready(Err(_)) = self.poll_flush(cx)
            {
                return Poll::Ready(Err(Fault::Lost));
            }
            match ready!(self.poll_received(cx))? {
                None | Some(Received::Pong) => {}
                Some(Received::Message(_, payload)) => return Poll::Ready(Ok(Some(payload))),
                Some(Received::Ping(payload)) => {
                    if !self.is_closing {
                        self.pong = Some(payload);
                    }
                }
                Some(Received::Close(code)) => {
                    let payload = code.map(|code| code.to_be_bytes().to_vec());
                    self.end(payload.unwrap_or_default().into());
                    // Who waits for the end flushes it.
                    let _ = self.poll_flush(cx);
                    return Poll::Ready(Ok(None));
                }
            }
        }
    }

    /// Something complete, if there is.
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Received>, Fault>> {
        if !self.rest.is_empty() {
            let mut rest = &self.rest[..];
            let received = self.reader.take(&mut rest)?;
            let size = rest.len();
            // An empty part would keep the memory of the whole.
            self.rest = if size == 0 {
                Bytes::new()
            } else {
                self.rest.split_off(self.rest.len() - size)
            };
            return Poll::Ready(Ok(received));
        }
        let Self { stream, reader, .. } = self;
        let read = poll_read(stream, cx, |mut bytes| {
            if bytes.is_empty() {
                return Err(Fault::Lost);
            }
            let received = reader.take(&mut bytes)?;
            Ok((received, Bytes::copy_from_slice(bytes)))
        });
        let (received, rest) = ready!(read).map_err(|_| Fault::Lost)??;
        self.rest = rest;
        Poll::Ready(Ok(received))
    }

    /// Adds the last frame, unless there is one.
    fn end(&mut self, payload: Bytes) {
        if !self.is_closing {
            self.is_closing = true;
            self.close = Some(payload);
        }
    }

    /// Bytes of buffers.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.rest.len() + self.out.payload.len() + self.reader.kept()
    }

    fn is_flushed(&self) -> bool {
        self.out.is_written() && self.pong.is_none() && self.close.is_none()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.out.is_written() {
                // Nothing is kept of what is written.
                self.out = Outgoing::default();
                if let Some(payload) = self.pong.take() {
                    self.out = Outgoing::new(Opcode::Pong, payload);
                } else if let Some(payload) = self.close.take() {
                    self.out = Outgoing::new(Opcode::Close, payload);
                } else {
                    return Pin::new(&mut self.stream).poll_flush(cx);
                }
            }
            let stream = Pin::new(&mut self.stream);
            let written = match self.out.parts() {
                (&[], payload) => stream.poll_write(cx, payload),
                (header, payload) => {
                    let parts = [header, payload].map(io::IoSlice::new);
                    stream.poll_write_vectored(cx, &parts)
                }
            };
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.written += written;
        }
    }
}

/// What `using` makes of the bytes that have arrived; none at the end.
fn poll_read<T>(
    stream: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    using: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    let mut space = [const { MaybeUninit::uninit() }; READ];
    let mut buffer = ReadBuf::uninit(&mut space);
    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(using(buffer.filled())))
}
