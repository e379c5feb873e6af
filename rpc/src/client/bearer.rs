//! The token that goes with each call.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

use crate::pem::{self, FileError};

const WHAT: &str = "token file";
/// How long a token is used before its file is read again, in milliseconds.
const FRESH_MS: u64 = 1_000;

/// Adds `authorization: Bearer …` to each call, with what a file holds, if there
/// is one, and in a server the trace that the call is of. Its Debug does not show it.
#[derive(Clone)]
pub struct Bearer(Option<Arc<TokenFile>>);

struct TokenFile {
    path: PathBuf,
    held: Mutex<(Instant, MetadataValue<Ascii>)>,
}

impl Bearer {
    pub(super) fn new(path: Option<&Path>) -> Result<Self, FileError> {
        let file = path.map(|path| {
            Ok(Arc::new(TokenFile {
                held: Mutex::new((Instant::now(), read(path)?)),
                path: path.to_owned(),
            }))
        });
        Ok(Self(file.transpose()?))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(file) = &self.0 {
            let value = file.value();
            request.metadata_mut().insert("authorization", value);
        }
        #[cfg(feature = "server")]
        inject(request.metadata_mut());
        Ok(request)
    }
}

/// Says which trace the call is of, if it is of one.
#[cfg(feature = "server")]
fn inject(metadata: &mut tonic::metadata::MetadataMap) {
    let mut headers = std::mem::take(metadata).into_headers();
    crate::traces::inject(&mut headers);
    *metadata = tonic::metadata::MetadataMap::from_headers(headers);
}

impl TokenFile {
    /// The newest token that could be read: a file that is being replaced keeps
    /// nobody from calling.
    fn value(&self) -> MetadataValue<Ascii> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.0.elapsed() > Duration::from_millis(FRESH_MS) {
            held.0 = Instant::now();
            if let Ok(value) = read(&self.path) {
                held.1 = value;
            }
        }
        held.1.clone()
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.as_ref().map(|file| &file.path);
        f.debug_struct("Bearer").field("file", &path).finish()
    }
}

fn read(path: &Path) -> Result<MetadataValue<Ascii>, FileError> {
    let bytes = pem::read(WHAT, path)?;
    let token = bytes.trim_ascii();
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return Err(pem::malformed(WHAT, path, "it holds no token in one line"));
    }
    let value = [b"Bearer ", token].concat();
    let mut value = MetadataValue::try_from(&value[..])
        .map_err(|_| pem::malformed(WHAT, path, "it holds no token in one line"))?;
    value.set_sensitive(true);
    Ok(value)
}
