//! Parameters of `DATABASE_URL` that `tokio_postgres` does not know.

use tokio_postgres::Config;

/// Why a URL cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DatabaseUrlError {
    /// A libpq parameter that names a file.
    #[error("`sslrootcert` is not supported; set POSTRIDER_EXTRA_CA_FILE to the file instead")]
    RootCertificate,
    /// Not a PostgreSQL URL.
    #[error(transparent)]
    Invalid(#[from] tokio_postgres::Error),
}

/// Parses a URL or `key=value` pairs. When TLS is used, the certificate and the host name are always verified
/// (`store::connect`). The libpq modes `verify-ca` and `verify-full` are therefore the same as `require` here.
pub(super) fn parse(text: &str) -> Result<Config, DatabaseUrlError> {
    let options = match text.split_once("://") {
        Some((_, rest)) => rest.rsplit_once('?').map_or("", |(_, options)| options),
        None => text,
    };
    if options.split(is_separator).any(|option| option.starts_with("sslrootcert=")) {
        return Err(DatabaseUrlError::RootCertificate);
    }
    let begin = text.len() - options.len();
    let options = options.split_inclusive(is_separator).map(|option| {
        let name = option.trim_end_matches(is_separator);
        match name {
            "sslmode=verify-ca" | "sslmode=verify-full" => option.replace(name, "sslmode=require"),
            _ => option.to_owned(),
        }
    });
    let known = text[..begin].to_owned() + &options.collect::<String>();
    Ok(known.parse()?)
}

fn is_separator(character: char) -> bool {
    character == '&' || character.is_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::SslMode;

    use super::*;

    #[test]
    fn the_modes_that_verify_are_those_that_require_tls() {
        for text in [
            "postgres://user:p@db1,db2:5433/postrider?sslmode=verify-full",
            "postgresql://db/postrider?application_name=x&sslmode=verify-ca&target_session_attrs=read-write",
            "host=db sslmode=verify-full dbname=postrider",
            "host=db dbname=postrider sslmode=verify-ca",
            "postgres://db/postrider?sslmode=require",
        ] {
            let config = parse(text).expect(text);
            assert_eq!(config.get_ssl_mode(), SslMode::Require, "{text}");
            assert_eq!(config.get_dbname(), Some("postrider"), "{text}");
        }
        assert_eq!(parse("postgres://db/x").expect("a URL").get_ssl_mode(), SslMode::Prefer);
        let password = parse("postgres://u:sslmode=verify-full@db/x").expect("a URL");
        assert_eq!(password.get_password(), Some(&b"sslmode=verify-full"[..]));
        assert!(parse("postgres://db/x?sslmode=verify").is_err());
        let refused =
            parse("postgres://db/x?sslmode=verify-full&sslrootcert=/ca.pem").expect_err("not known");
        assert!(matches!(refused, DatabaseUrlError::RootCertificate), "{refused}");
    }
}
