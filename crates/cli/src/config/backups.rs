//! The settings of the backup repository, checked.

use std::path::Path;

use fsa_server::settings::BackupSettings;
use secrecy::SecretString;

use super::Settings;
use crate::failure::Failure;

/// None where no repository is named.
pub(super) fn backups(settings: &Settings, data_dir: &Path) -> Result<Option<BackupSettings>, Failure> {
    let Some(repository) = settings
        .backup_repository
        .clone()
        .filter(|path| !path.as_os_str().is_empty())
    else {
        return Ok(None);
    };
    if !repository.is_absolute() {
        return Err(Failure::usage(format!(
            "backup-repository is the absolute path of a folder, and not {}",
            repository.display()
        )));
    }
    let Some(file) = &settings.backup_password_file else {
        return Err(Failure::usage(
            "backup-repository is set and its password is not: name a file with --backup-password-file",
        ));
    };
    let password = std::fs::read_to_string(file).map_err(|error| {
        Failure::usage(format!(
            "the file of the backup password, {}, cannot be read: {error}",
            file.display()
        ))
    })?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::usage(format!(
            "the file of the backup password, {}, is empty",
            file.display()
        )));
    }
    Ok(Some(BackupSettings {
        repository,
        password: SecretString::from(password),
        scratch: data_dir.join("run"),
    }))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::{backups as backups_in, *};

    fn backups(settings: &Settings) -> Result<Option<BackupSettings>, Failure> {
        backups_in(settings, Path::new("/var/lib/fsa"))
    }

    #[test]
    fn a_repository_needs_a_password_which_is_the_first_line_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        let settings = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Settings {
                backup_repository: Some("/srv/backups".into()),
                backup_password_file: Some(file.clone()),
                ..Settings::default()
            }
        };
        let found = backups(&settings(" a b\n")).unwrap().unwrap();
        assert_eq!(found.password.expose_secret(), " a b");
        assert!(backups(&settings("\n")).is_err());
        let without = Settings {
            backup_password_file: None,
            ..settings("a")
        };
        assert!(backups(&without).is_err());
        let relative = Settings {
            backup_repository: Some("backups".into()),
            ..settings("a")
        };
        assert!(backups(&relative).is_err());
        assert!(backups(&Settings::default()).unwrap().is_none());
    }
}
