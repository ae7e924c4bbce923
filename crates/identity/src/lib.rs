//! Who is calling: our certificate authority, device certificates, connection kits.
