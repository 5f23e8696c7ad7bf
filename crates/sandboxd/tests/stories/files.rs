//! File API.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use fsa_model::sandboxd::{FileEntry, paths::PROJECT_FILES};
use http::{Method, StatusCode};
use http_body_util::Full;
use serde_json::json;

use crate::harness::{Sandbox, find, is_root};

#[tokio::test]
async fn a_file_is_read_as_it_was_written_and_belongs_to_the_person() {
    let sandbox = Sandbox::start().await;
    let content: Vec<u8> = (0..3_000_000u32).map(|number| (number * 7) as u8).collect();
    let written = sandbox
        .call(
            Method::PUT,
            "/v1/files?path=a/b/data.bin&mode=0640",
            content.clone(),
        )
        .await;
    assert_eq!(written.status, StatusCode::CREATED);
    let read = sandbox
        .get("/v1/files?path=a/b/data.bin")
        .await
        .expect(StatusCode::OK);
    assert_eq!(read.body, content);
    assert_eq!(read.headers["content-length"], "3000000");
    assert_eq!(read.headers["etag"], written.headers["etag"]);
    assert!(read.headers.contains_key("last-modified"));
    let found = fs::metadata(sandbox.project().join("a/b/data.bin")).unwrap();
    assert_eq!(found.mode() & 0o7777, 0o640);
    if is_root() {
        assert_eq!((found.uid(), found.gid()), (1000, 1000));
        assert_eq!(fs::metadata(sandbox.project().join("a")).unwrap().uid(), 1000);
    }
    let again = sandbox
        .call(Method::PUT, "/v1/files?path=a/b/data.bin", "new")
        .await;
    assert_eq!(again.status, StatusCode::NO_CONTENT);
    assert_eq!(
        fs::metadata(sandbox.project().join("a/b/data.bin"))
            .unwrap()
            .mode()
            & 0o7777,
        0o640,
        "the mode stays"
    );
    assert_eq!(sandbox.get("/v1/files?path=a/b/data.bin").await.body, "new");
    assert_eq!(
        fs::read_dir(sandbox.project().join("a/b")).unwrap().count(),
        1,
        "nothing temporary is left"
    );
}

#[tokio::test]
async fn a_file_that_has_changed_is_not_overwritten() {
    let sandbox = Sandbox::start().await;
    let first = sandbox.call(Method::PUT, "/v1/files?path=x", "one").await;
    let put = |tag: &http::HeaderValue| {
        Sandbox::builder(Method::PUT, "/v1/files?path=x")
            .header("if-match", tag)
            .body(Full::new("mine".into()))
            .unwrap()
    };
    sandbox.sh("echo theirs > x").await;
    let refused = sandbox.request(put(&first.headers["etag"])).await;
    assert_eq!(refused.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(sandbox.get("/v1/files?path=x").await.body, "theirs\n");
    let now = sandbox.get("/v1/files?path=x").await.headers["etag"].clone();
    sandbox.request(put(&now)).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(sandbox.get("/v1/files?path=x").await.body, "mine");
    let unchanged = Sandbox::builder(Method::GET, "/v1/files?path=x")
        .header(
            "if-none-match",
            &sandbox.get("/v1/files?path=x").await.headers["etag"],
        )
        .body(Full::default())
        .unwrap();
    assert_eq!(sandbox.request(unchanged).await.status, StatusCode::NOT_MODIFIED);
}

fn put(path: &str, fields: &[(&str, &str)], body: &str) -> http::Request<Full<bytes::Bytes>> {
    let mut request = Sandbox::builder(Method::PUT, &format!("/v1/files?path={path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.to_owned().into())).unwrap()
}

#[tokio::test]
async fn a_file_that_must_be_new_replaces_nothing() {
    let sandbox = Sandbox::start().await;
    let new = [("if-none-match", "*")];
    sandbox.sh("echo precious > x; mkdir folder; ln -s x link").await;
    for path in ["x", "link", "folder"] {
        let refused = sandbox.request(put(path, &new, "mine")).await;
        assert_eq!(refused.status, StatusCode::PRECONDITION_FAILED, "{path}");
        assert!(
            refused.error().contains("exists already"),
            "{path}: {}",
            refused.error()
        );
    }
    let tar = [("if-none-match", "*"), ("content-type", "application/x-tar")];
    let refused = sandbox.request(put("folder", &tar, "")).await;
    assert_eq!(refused.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(sandbox.get("/v1/files?path=x").await.body, "precious\n");

    // Of many at the same time one succeeds, and its content stays.
    let names: Vec<String> = (0..16).map(|number| format!("writer {number}")).collect();
    let all = futures_util::future::join_all(
        names
            .iter()
            .map(|name| sandbox.request(put("deep/new", &new, name))),
    )
    .await;
    let winners: Vec<_> = std::iter::zip(&names, &all)
        .filter(|(_, answer)| answer.status == StatusCode::CREATED)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert!(
        all.iter()
            .all(|answer| [StatusCode::CREATED, StatusCode::PRECONDITION_FAILED].contains(&answer.status))
    );
    assert_eq!(
        sandbox.get("/v1/files?path=deep/new").await.body,
        winners[0].as_bytes()
    );
    assert_eq!(
        fs::read_dir(sandbox.project().join("deep")).unwrap().count(),
        1,
        "nothing temporary is left"
    );
}

#[tokio::test]
async fn of_changes_to_the_same_version_one_succeeds() {
    let sandbox = Sandbox::start().await;
    let first = sandbox.call(Method::PUT, "/v1/files?path=x", "one").await;
    let tag = first.headers["etag"].to_str().unwrap();
    let same = [("if-match", tag)];
    let all = futures_util::future::join_all(
        (0..16).map(|number| sandbox.request(put("x", &same, &"x".repeat(number + 2)))),
    )
    .await;
    let done = all
        .iter()
        .filter(|answer| answer.status == StatusCode::NO_CONTENT)
        .count();
    assert_eq!(done, 1);

    for (fields, status) in [
        (vec![("if-match", "nonsense")], StatusCode::PRECONDITION_FAILED),
        (
            vec![("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT")],
            StatusCode::PRECONDITION_FAILED,
        ),
    ] {
        assert_eq!(
            sandbox.request(put("x", &fields, "")).await.status,
            status,
            "{fields:?}"
        );
    }
    let delete = Sandbox::builder(Method::DELETE, "/v1/files?path=x")
        .header("if-match", tag)
        .body(Full::default())
        .unwrap();
    assert_eq!(
        sandbox.request(delete).await.status,
        StatusCode::PRECONDITION_FAILED
    );
    assert!(sandbox.project().join("x").exists());
}

#[tokio::test]
async fn a_part_of_a_file_is_read() {
    let sandbox = Sandbox::start().await;
    let written = sandbox.call(Method::PUT, "/v1/files?path=x", "0123456789").await;
    let tag = written.headers["etag"].to_str().unwrap();
    let get = |fields: &[(&str, &str)]| {
        let mut request = Sandbox::builder(Method::GET, "/v1/files?path=x");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(Full::default()).unwrap()
    };
    let part = sandbox.request(get(&[("range", "bytes=2-4")])).await;
    assert_eq!(
        (part.status, &part.body[..]),
        (StatusCode::PARTIAL_CONTENT, &b"234"[..])
    );
    assert_eq!(part.headers["content-range"], "bytes 2-4/10");
    assert_eq!(part.headers["content-length"], "3");
    assert_eq!(part.headers["etag"], tag);
    let end = sandbox
        .request(get(&[("range", "bytes=-1"), ("if-range", tag)]))
        .await;
    assert_eq!(end.body, "9");
    let other = sandbox
        .request(get(&[("range", "bytes=-1"), ("if-range", "\"other\"")]))
        .await;
    assert_eq!((other.status, other.body.len()), (StatusCode::OK, 10));
    let beyond = sandbox.request(get(&[("range", "bytes=10-")])).await;
    assert_eq!(beyond.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(beyond.headers["content-range"], "bytes */10");
    let changed = sandbox.request(get(&[("if-match", "\"other\"")])).await;
    assert_eq!(changed.status, StatusCode::PRECONDITION_FAILED);
    let date = sandbox.get("/v1/files?path=x").await.headers["last-modified"].clone();
    let unchanged = sandbox
        .request(get(&[("if-modified-since", date.to_str().unwrap())]))
        .await;
    assert_eq!(unchanged.status, StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn a_folder_is_listed_by_name() {
    let sandbox = Sandbox::start().await;
    sandbox.sh("mkdir b; echo text > a; ln -s a c; chmod 600 a").await;
    let list = sandbox
        .get("/v1/files?path=&list=true")
        .await
        .expect(StatusCode::OK)
        .json();
    let reported: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            (
                entry["name"].as_str().unwrap(),
                entry["kind"].as_str().unwrap(),
                entry["target"].as_str(),
            )
        })
        .collect();
    assert_eq!(
        reported,
        [
            ("a", "file", None),
            ("b", "directory", None),
            ("c", "symlink", Some("a"))
        ]
    );
    assert_eq!(
        (list[0]["size"].as_u64(), list[0]["mode"].as_u64()),
        (Some(5), Some(0o600))
    );
}

#[tokio::test]
async fn no_link_leads_confined_access_out_of_the_project() {
    let sandbox = Sandbox::start().await;
    let made = sandbox
        .sh("mkdir -p src deep/er; echo code > src/main; echo secret > ../token; \
             ln -s ../../src/main deep/er/near; ln -s src folder; \
             ln -s /etc/passwd out; ln -s ../../../token deep/er/up; ln -s .. home; ln -s $PWD/src/main absolute")
        .await;
    assert_eq!(made.exit_code, 0, "{}", made.stderr);
    let read = async |path: &str| sandbox.get(&format!("{PROJECT_FILES}?path={path}")).await;

    for path in ["src/main", "deep/er/near", "folder/main", "./src//main"] {
        assert_eq!(read(path).await.expect(StatusCode::OK).body, "code\n", "{path}");
    }
    let whole = sandbox.project().join("src/main");
    read(whole.to_str().unwrap()).await.expect(StatusCode::OK);
    for path in [
        "out",
        "deep/er/up",
        "home/token",
        "home/project/src/main",
        "absolute",
        "../token",
        "/etc/passwd",
    ] {
        for list in ["", "&list=true"] {
            let refused = read(&format!("{path}{list}")).await.expect(StatusCode::FORBIDDEN);
            assert!(
                refused.error().contains("leads out of the project's folder"),
                "{path}"
            );
        }
        let unconfined = sandbox.get(&format!("/v1/files?path={path}")).await;
        unconfined.expect(StatusCode::OK);
    }
    read("home&list=true").await.expect(StatusCode::FORBIDDEN);
    let listed = read("folder&list=true").await.expect(StatusCode::OK).json();
    assert_eq!(listed[0]["name"], "main");
    let itself = read("deep/er/near&list=true").await.expect(StatusCode::OK).json();
    assert_eq!(
        (&itself[0]["kind"], &itself[0]["target"]),
        (&json!("symlink"), &json!("../../src/main"))
    );
    sandbox
        .call(Method::PUT, &format!("{PROJECT_FILES}?path=src/main"), "mine")
        .await
        .expect(StatusCode::NOT_FOUND);
    // An archive contains links as links.
    let archive = |path: &str| {
        Sandbox::builder(Method::GET, &format!("{PROJECT_FILES}?path={path}"))
            .header("accept", "application/x-tar")
            .body(Full::default())
            .unwrap()
    };
    sandbox
        .request(archive("home"))
        .await
        .expect(StatusCode::FORBIDDEN);
    let packed = sandbox.request(archive("")).await.expect(StatusCode::OK);
    assert!(find(&packed.body, b"code\n").is_some() && find(&packed.body, b"secret").is_none());
    // Also when the folder itself has become a link.
    let moved = sandbox.sh("cd .. && mv project was && ln -s / project").await;
    assert_eq!(moved.exit_code, 0, "{}", moved.stderr);
    assert_ne!(read("etc/passwd").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_impossible_request_is_refused_with_the_right_status() {
    let sandbox = Sandbox::start().await;
    sandbox
        .sh("mkdir -p folder/inner; echo x > file; mkfifo pipe")
        .await;
    for (method, path, status) in [
        (Method::GET, "/v1/files?path=nothing", StatusCode::NOT_FOUND),
        (Method::GET, "/v1/files?path=folder", StatusCode::CONFLICT),
        (Method::GET, "/v1/files?path=pipe", StatusCode::CONFLICT),
        (Method::GET, "/v1/files?path=file/x", StatusCode::CONFLICT),
        (Method::GET, "/v1/files", StatusCode::BAD_REQUEST),
        (
            Method::GET,
            "/v1/files?path=file&list=perhaps",
            StatusCode::BAD_REQUEST,
        ),
        (Method::PUT, "/v1/files?path=folder", StatusCode::CONFLICT),
        (Method::PUT, "/v1/files?path=file/x", StatusCode::CONFLICT),
        (Method::PUT, "/v1/files?path=y&mode=rwx", StatusCode::BAD_REQUEST),
        (Method::PUT, "/v1/files?path=a%00b", StatusCode::BAD_REQUEST),
        (Method::DELETE, "/v1/files?path=nothing", StatusCode::NOT_FOUND),
        (Method::DELETE, "/v1/files?path=folder", StatusCode::CONFLICT),
        (
            Method::DELETE,
            "/v1/files?path=&recursive=true",
            StatusCode::CONFLICT,
        ),
        (
            Method::DELETE,
            "/v1/files?path=/&recursive=true",
            StatusCode::CONFLICT,
        ),
        (
            Method::PATCH,
            "/v1/files?path=file",
            StatusCode::METHOD_NOT_ALLOWED,
        ),
    ] {
        let answer = sandbox.call(method.clone(), path, "").await;
        assert_eq!(answer.status, status, "{method} {path}: {:?}", answer.body);
    }
}

#[tokio::test]
async fn the_person_cannot_write_without_permission() {
    if !is_root() {
        // Without root the user of the tests is the person, and cannot create files of another owner.
        let sandbox = Sandbox::start().await;
        let answer = sandbox.call(Method::PUT, "/v1/files?path=/proc/x", "y").await;
        assert!(answer.status.is_client_error(), "{}", answer.status);
        return;
    }
    let sandbox = Sandbox::start().await;
    let outside = sandbox.folder.path().join("root-only");
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(outside.join("secret"), "s").unwrap();
    symlink(&outside, sandbox.project().join("link")).unwrap();
    let path = outside.display();
    for (method, path) in [
        (Method::GET, format!("/v1/files?path={path}/secret")),
        (Method::GET, "/v1/files?path=link/secret".into()),
        (Method::GET, format!("/v1/files?path={path}&list=true")),
        (Method::PUT, format!("/v1/files?path={path}/mine")),
        (Method::DELETE, format!("/v1/files?path={path}/secret")),
    ] {
        assert_eq!(
            sandbox.call(method.clone(), &path, "x").await.status,
            StatusCode::FORBIDDEN,
            "{method} {path}"
        );
    }
    let as_root = sandbox
        .get(&format!("/v1/files?path={path}/secret&user=root"))
        .await;
    assert_eq!(as_root.body, "s");
    assert_eq!(
        sandbox
            .sh("echo still the person > mine; stat -c %u mine")
            .await
            .stdout,
        "1000\n"
    );
}

#[tokio::test]
async fn files_are_moved_and_deleted() {
    let sandbox = Sandbox::start().await;
    sandbox
        .sh("echo 1 > a; echo 2 > b; mkdir full; touch full/x; ln -s a link")
        .await;
    let rename = async |from: &str, to: &str, overwrite: bool| {
        let body = json!({"from": from, "to": to, "overwrite": overwrite}).to_string();
        sandbox.call(Method::POST, "/v1/move", body).await.status
    };
    assert_eq!(rename("a", "new/place/a", false).await, StatusCode::NO_CONTENT);
    assert_eq!(rename("b", "new/place/a", false).await, StatusCode::CONFLICT);
    assert_eq!(rename("b", "new/place/a", true).await, StatusCode::NO_CONTENT);
    assert_eq!(rename("nothing", "x", false).await, StatusCode::NOT_FOUND);
    assert_eq!(sandbox.get("/v1/files?path=new/place/a").await.body, "2\n");
    let delete = async |path: &str| {
        sandbox
            .call(Method::DELETE, &format!("/v1/files?path={path}"), "")
            .await
            .status
    };
    assert_eq!(delete("full").await, StatusCode::CONFLICT);
    assert_eq!(delete("full&recursive=true").await, StatusCode::NO_CONTENT);
    assert_eq!(delete("link").await, StatusCode::NO_CONTENT);
    assert_eq!(sandbox.sh("ls").await.stdout, "new\n");
}

#[tokio::test]
async fn an_aborted_upload_changes_nothing() {
    use tokio::io::AsyncWriteExt;
    let sandbox = Sandbox::start().await;
    sandbox.sh("echo before > x").await;
    let mut stream = sandbox.dial().await.unwrap();
    let head = "PUT /v1/files?path=x HTTP/1.1\r\nhost: s\r\nauthorization: Bearer the-control-token\r\ncontent-length: 1000\r\n\r\nhalf";
    stream.write_all(head.as_bytes()).await.unwrap();
    crate::harness::until("the temporary file", async || {
        (fs::read_dir(sandbox.project()).unwrap().count() == 2).then_some(())
    })
    .await;
    drop(stream);
    crate::harness::until("its removal", async || {
        (fs::read_dir(sandbox.project()).unwrap().count() == 1).then_some(())
    })
    .await;
    assert_eq!(sandbox.get("/v1/files?path=x").await.body, "before\n");
}

#[tokio::test]
async fn a_name_that_is_not_utf8_is_addressed_by_its_bytes() {
    let sandbox = Sandbox::start().await;
    sandbox
        .sh("mkdir n; printf coffee > \"n/$(printf 'n\\351').txt\"")
        .await;

    let entries: Vec<FileEntry> = serde_json::from_value(
        sandbox
            .get("/v1/files?path=n&list=true")
            .await
            .expect(StatusCode::OK)
            .json(),
    )
    .unwrap();
    assert_eq!(entries[0].name, "n\u{fffd}.txt");
    let name = entries[0].encoded_name.as_deref().expect("an encoded name");
    assert_eq!(name, "n%E9%2Etxt");

    let path = format!("/v1/files?path=n/{name}");
    let answer = sandbox.get(&path).await.expect(StatusCode::OK);
    assert_eq!(answer.body, "coffee");
    sandbox
        .call(Method::PUT, &path, "tea")
        .await
        .expect(StatusCode::NO_CONTENT);
    assert_eq!(sandbox.sh("cat n/n*").await.stdout, "tea");
    let rename = |body: serde_json::Value| sandbox.call(Method::POST, "/v1/move", body.to_string());
    let from = format!("n/{name}");
    rename(json!({"encodedFrom": from, "to": "n/plain"}))
        .await
        .expect(StatusCode::NO_CONTENT);
    assert_eq!(sandbox.sh("cat n/plain").await.stdout, "tea");
    rename(json!({"from": "n/plain", "encodedTo": from}))
        .await
        .expect(StatusCode::NO_CONTENT);
    rename(json!({"from": "n/plain", "encodedFrom": from, "to": "x"}))
        .await
        .expect(StatusCode::BAD_REQUEST);
    sandbox
        .call(Method::DELETE, &path, "")
        .await
        .expect(StatusCode::NO_CONTENT);
    assert_eq!(sandbox.sh("ls n").await.stdout, "");
}

#[tokio::test]
async fn zeros_take_no_room_on_the_disk() {
    let sandbox = Sandbox::start().await;
    let content = [
        vec![b'x'; 10_000],
        vec![0; 4_000_000],
        vec![b'y'; 10],
        vec![0; 1_000_000],
    ]
    .concat();
    sandbox
        .call(Method::PUT, "/v1/files?path=sparse", content.clone())
        .await
        .expect(StatusCode::CREATED);
    let answer = sandbox.get("/v1/files?path=sparse").await.expect(StatusCode::OK);
    assert!(answer.body == content, "{} bytes", answer.body.len());
    let found = std::fs::metadata(sandbox.project().join("sparse")).unwrap();
    assert!(found.blocks() * 512 < 2_000_000, "{} blocks", found.blocks());
}
