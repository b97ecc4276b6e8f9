//! Authorities that change while the process runs.

use std::time::Duration;
use vendor_token_operator::http::{AuthorityFile, Transport};

use crate::servers::*;

#[tokio::test]
async fn authorities_that_are_replaced_count_for_the_next_request() {
    let (old, new) = (Authority::new(), Authority::new());
    let [old_server, new_server] = [
        Server::answering(old.good(), TOKEN).await,
        Server::answering(new.good(), TOKEN).await,
    ];
    let transport = transport(options(&old));
    let answers = async |server: &Server| transport.send(request(&server.url())).await.is_ok();
    assert!(answers(&old_server).await && !answers(&new_server).await);
    transport.replace_authorities(b"no certificate").unwrap_err();
    assert!(
        answers(&old_server).await,
        "a bundle that cannot be used changed something"
    );
    transport.replace_authorities(new.0.pem().as_bytes()).unwrap();
    assert!(answers(&new_server).await, "the new authority is not trusted");
    assert!(
        !answers(&old_server).await,
        "a connection from before is used again"
    );
}

#[tokio::test]
async fn a_file_of_authorities_is_followed_through_a_swap_of_its_link() {
    let (old, new) = (Authority::new(), Authority::new());
    let server = Server::answering(new.good(), TOKEN).await;
    // The way in which the kubelet keeps a mounted ConfigMap: `..data` leads to the folder of the day.
    let mount = tempfile::tempdir().unwrap();
    let path = |name: &str| mount.path().join(name);
    for (folder, authority) in [("..first", &old), ("..second", &new)] {
        std::fs::create_dir(path(folder)).unwrap();
        std::fs::write(path(folder).join("ca.pem"), authority.0.pem()).unwrap();
    }
    std::os::unix::fs::symlink("..first", path("..data")).unwrap();
    std::os::unix::fs::symlink("..data/ca.pem", path("ca.pem")).unwrap();
    let file = AuthorityFile::read(&path("ca.pem")).unwrap();
    let transport = transport(options(&old));
    let following = tokio::spawn(file.follow(transport.clone(), Duration::from_millis(20)));
    assert!(transport.send(request(&server.url())).await.is_err());

    std::os::unix::fs::symlink("..second", path("..data_tmp")).unwrap();
    std::fs::rename(path("..data_tmp"), path("..data")).unwrap();
    let started = std::time::Instant::now();
    while transport.send(request(&server.url())).await.is_err() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "the new file is not used"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    following.abort();
}
