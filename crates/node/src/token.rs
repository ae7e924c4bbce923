//! The token that lets this machine's owner, and nobody else, administer the node.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base::{Error, Result};
use sha2::{Digest, Sha256};

/// Name of the file in the data directory.
pub const TOKEN_FILE: &str = "admin-token";

/// 32 random bytes as hexadecimal. Has no `Debug` that shows it.
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(***)")
    }
}

impl Token {
    /// Reads the data directory's token, making it at first.
    pub fn load(data_dir: &Path) -> Result<Token> {
        let path = data_dir.join(TOKEN_FILE);
        let doing = |what: &str| format!("{what} {}", path.display());
        match std::fs::read_to_string(&path) {
            Ok(text) if text.trim().len() == 64 => return Ok(Token(text.trim().to_owned())),
            Ok(_) => {
                return Err(Error::invalid(format!(
                    "{} does not hold a token; delete it to have a new one made",
                    path.display()
                )));
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return Err(Error::io(doing("read"), cause)),
        }
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes)
            .map_err(|e| Error::internal(format!("the system gives no random bytes: {e}")))?;
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| Error::io(doing("make"), e))?;
        file.write_all(token.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|e| Error::io(doing("write"), e))?;
        Ok(Token(token))
    }

    /// The token itself, for a client on the same machine.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `presented` is the token. Digests are compared, so that the time taken tells
    /// nothing about how much of it was right.
    pub fn opens(&self, presented: &str) -> bool {
        Sha256::digest(presented.as_bytes()) == Sha256::digest(self.0.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_made_once_kept_private_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let token = Token::load(folder.path()).unwrap();
        assert_eq!(Token::load(folder.path()).unwrap().reveal(), token.reveal());
        let mode = std::fs::metadata(folder.path().join(TOKEN_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(token.opens(token.reveal()));
        assert!(!token.opens("") && !token.opens(&token.reveal()[..63]));
        assert!(!format!("{token:?}").contains(token.reveal()));
    }
}
