//! Tar upload and download.

use std::fs;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::Full;

use crate::harness::{Sandbox, TestResponse, until};

async fn download(sandbox: &Sandbox, path: &str) -> Bytes {
    let request = Sandbox::builder(Method::GET, &format!("/v1/files?path={path}"))
        .header("accept", "application/x-tar")
        .body(Full::default())
        .unwrap();
    sandbox.request(request).await.expect(StatusCode::OK).body
}

async fn upload(sandbox: &Sandbox, path: &str, archive: impl Into<Bytes>) -> TestResponse {
    let request = Sandbox::builder(Method::PUT, &format!("/v1/files?path={path}"))
        .header("content-type", "application/x-tar")
        .body(Full::new(archive.into()))
        .unwrap();
    sandbox.request(request).await
}

/// Archive of one entry with any name.
fn archive_of(name: &str, kind: tar::EntryType, link: Option<&str>, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    if let Some(link) = link {
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    }
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, content).unwrap();
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn a_folder_survives_the_round_trip() {
    let sandbox = Sandbox::start().await;
    let long = "d".repeat(90);
    sandbox
        .sh(&format!(
            "mkdir -p from/{long}/{long}/empty; cd from; echo 'text' > file; chmod 755 file; ln -s ../out link; \
             head -c 300000 /dev/urandom > {long}/{long}/big; touch -d @1000000000 file; mkfifo pipe; echo > 'ü\nx'"
        ))
        .await;
    let archive = download(&sandbox, "from").await;
    upload(&sandbox, "to", archive)
        .await
        .expect(StatusCode::NO_CONTENT);
    let script = "cd $0 && find . ! -name pipe -printf '%p %m %l %s %y\\n' | grep -v '^\\. ' | sed 's/ 4096 d/ d/' | sort; \
                  find . -type f -exec sha256sum {} + | sort; stat -c %Y file";
    let of = async |folder: &str| {
        sandbox
            .exec(serde_json::json!({"command": ["sh", "-c", script, folder]}))
            .await
            .stdout
    };
    let (from, to) = (of("from").await, of("to").await);
    assert!(from.contains("1000000000") && from.contains("big"), "{from}");
    assert_eq!(from, to);
}

#[tokio::test]
async fn an_archive_that_leads_out_of_the_folder_is_refused() {
    use tar::EntryType as Kind;
    let sandbox = Sandbox::start().await;
    let outside = sandbox.project().join("outside");
    sandbox
        .sh("mkdir outside; echo kept > outside/file; mkdir in; ln -s ../outside in/link")
        .await;
    let absolute = outside.join("absolute");
    for (name, kind, link, word) in [
        ("../outside/up", Kind::Regular, None, "leads out"),
        ("a/../../outside/up", Kind::Regular, None, "leads out"),
        (absolute.to_str().unwrap(), Kind::Regular, None, "leads out"),
        ("link/through", Kind::Regular, None, "symbolic link"),
        ("link/deep/through", Kind::Regular, None, "symbolic link"),
        ("hard", Kind::Link, Some("../outside/file"), "leads out"),
        ("hard", Kind::Link, Some("link/file"), "symbolic link"),
        ("device", Kind::Char, None, "neither"),
    ] {
        if name.len() > 99 {
            continue;
        }
        let answer = upload(&sandbox, "in", archive_of(name, kind, link, b"")).await;
        assert_eq!(
            answer.status,
            StatusCode::BAD_REQUEST,
            "{name}: {:?}",
            answer.body
        );
        assert!(answer.error().contains(word), "{name}: {}", answer.error());
    }
    assert_eq!(
        sandbox.sh("ls outside; cat outside/file; ls in").await.stdout,
        "file\nkept\nlink\n"
    );
}

#[tokio::test]
async fn a_link_in_the_archive_does_not_lead_a_later_entry_out() {
    let sandbox = Sandbox::start().await;
    sandbox.sh("mkdir outside").await;
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "way", "../outside").unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(1);
    builder.append_data(&mut header, "way/file", &b"x"[..]).unwrap();
    let answer = upload(&sandbox, "in", builder.into_inner().unwrap()).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        fs::read_dir(sandbox.project().join("outside")).unwrap().count(),
        0
    );
}

#[tokio::test]
async fn a_broken_archive_is_refused() {
    let sandbox = Sandbox::start().await;
    let whole = archive_of("file", tar::EntryType::Regular, None, &[b'x'; 5000]);
    let answer = upload(&sandbox, "in", whole[..2000].to_vec()).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{:?}", answer.body);
    let answer = upload(&sandbox, "in", vec![b'!'; 5000]).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{:?}", answer.body);
    assert!(answer.error().contains("archive"), "{}", answer.error());
}

#[tokio::test]
async fn an_archive_with_an_impossible_time_is_accepted() {
    let sandbox = Sandbox::start().await;
    for (number, seconds) in [u64::MAX, 3_472_328_296_227_680_256, 1 << 40]
        .into_iter()
        .enumerate()
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        header.set_mtime(seconds);
        let mut builder = tar::Builder::new(Vec::new());
        let name = format!("file-{number}");
        builder.append_data(&mut header, &name, &b"text"[..]).unwrap();
        let answer = upload(&sandbox, "in", builder.into_inner().unwrap()).await;
        assert_eq!(
            answer.status,
            StatusCode::NO_CONTENT,
            "{seconds}: {:?}",
            answer.body
        );
        assert_eq!(sandbox.sh(&format!("cat in/{name}")).await.stdout, "text");
    }
}

#[tokio::test]
async fn a_large_folder_streams_in_bounded_memory() {
    let sandbox = Sandbox::start().await;
    sandbox
        .sh("mkdir big; head -c 60000000 /dev/urandom > big/a; mkfifo big/never")
        .await;
    let before = sandbox.resident_kib();
    // A client that does not read, until the buffers in between are full.
    let mut stream = sandbox.dial().await.unwrap();
    tokio::io::AsyncWriteExt::write_all(
        &mut stream,
        b"GET /v1/files?path=big HTTP/1.1\r\nhost: s\r\naccept: application/x-tar\r\nauthorization: Bearer the-control-token\r\n\r\n",
    )
    .await
    .unwrap();
    until("the first bytes", async || stream.try_read(&mut [0; 1]).ok()).await;
    sandbox.sh("true").await;
    assert!(
        sandbox.resident_kib() < before + 10 * 1024,
        "{} KiB after {before}",
        sandbox.resident_kib()
    );
    drop(stream);
    let archive = download(&sandbox, "big").await;
    assert!(archive.len() > 60_000_000);
}

#[tokio::test]
async fn a_sparse_file_stays_sparse_and_an_unsupported_form_is_refused() {
    let sandbox = Sandbox::start().await;
    let local = tempfile::tempdir().unwrap();
    let path = local.path().join("sparse");
    let mut file = std::fs::File::create(&path).unwrap();
    file.set_len(50_000_000).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(30_000_000)).unwrap();
    std::io::Write::write_all(&mut file, b"middle").unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_path_with_name(&path, "sparse").unwrap();
    let archive = builder.into_inner().unwrap();

    upload(&sandbox, "in", archive)
        .await
        .expect(StatusCode::NO_CONTENT);

    let arrived = sandbox.project().join("in/sparse");
    assert!(std::fs::read(&arrived).unwrap() == std::fs::read(&path).unwrap());
    let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&arrived).unwrap());
    assert!(blocks * 512 < 1_000_000, "{blocks} blocks");

    // It leaves the sandbox as small, beside a file with more parts than a header has room for, and one without data.
    sandbox
        .sh("cd in && truncate -s 20M empty && for i in $(seq 60); do \
             printf $i | dd of=many bs=1 seek=$((i * 100000)) conv=notrunc status=none; done; truncate -s 9M many")
        .await;
    let archive = download(&sandbox, "in").await;
    assert!(archive.len() < 2_000_000, "{}", archive.len());
    let unpacked = tempfile::tempdir().unwrap();
    tar::Archive::new(&archive[..]).unpack(unpacked.path()).unwrap();
    for name in ["sparse", "empty", "many"] {
        let (theirs, ours) = (
            unpacked.path().join(name),
            sandbox.project().join("in").join(name),
        );
        assert!(
            std::fs::read(theirs).unwrap() == std::fs::read(ours).unwrap(),
            "{name}"
        );
    }

    let mut builder = tar::Builder::new(Vec::new());
    builder
        .append_pax_extensions([("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", &b"0"[..])])
        .unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(4);
    header.set_mode(0o644);
    builder
        .append_data(&mut header, "GNUSparseFile.1/s", &b"1\n0\n"[..])
        .unwrap();
    let answer = upload(&sandbox, "in", builder.into_inner().unwrap())
        .await
        .expect(StatusCode::BAD_REQUEST);
    assert!(answer.error().contains("--format=gnu"), "{}", answer.error());
}
