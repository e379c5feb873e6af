//! How messages are encoded, and how much memory a call takes for that.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::BufferSettings;
use tonic_prost::{ProstDecoder, ProstEncoder};

/// What a call allocates for what it sends, and for what it receives, before a message
/// needs more, in bytes. Most messages here are smaller; the 8 KiB each that tonic takes
/// would be most of what an open watch costs a server.
const BUFFER_BYTES: usize = 512;
/// How much of a stream is gathered before it is sent, in bytes: as tonic has it.
const GATHERED_BYTES: usize = 32 * 1024;

/// Protobuf, by prost.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Codec(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(buffers())
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, GATHERED_BYTES)
}
