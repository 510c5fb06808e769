"""One synchronous client, many threads."""

import threading
import time

from endcap_client import Client, EndcapError


def test_one_client_serves_many_threads(service, address):
    pages = []
    with Client(address) as client:
        threads = [threading.Thread(target=lambda: pages.append(client.storefront())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(pages) == 8


def test_closing_ends_what_is_under_way(service, address):
    service.delay_s = 5.0
    client = Client(address, timeout_s=20)
    caught = []

    def ask() -> None:
        try:
            client.storefront()
        except EndcapError as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not service.requests:
        time.sleep(0.01)
    client.close()
    thread.join(4)
    assert len(caught) == 1
    assert service.cancelled.wait(4)
