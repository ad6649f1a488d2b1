"""What one writes for a batch in ten minutes: all lines read, aiohttp with a semaphore, all written at the end.

    python -m benchmarks.parts.plain_batch INPUT OUTPUT URL WINDOW

The rival of benchmarks/batch.py; the key is in BENCH_KEY. Prints the seconds between the first request and the last
answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp


async def main(source: str, target: str, url: str, window: int) -> None:
    lines = [json.loads(line) for line in Path(source).read_text().splitlines()]
    gate = asyncio.Semaphore(window)
    headers = {"Authorization": f"Bearer {os.environ['BENCH_KEY']}"}
    begun = time.perf_counter()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as http:

        async def one(line: dict[str, Any]) -> str:
            async with gate, http.post(url.removesuffix("/v1") + line["url"], json=line["body"]) as response:
                body = await response.json()
                return json.dumps(
                    {
                        "custom_id": line["custom_id"],
                        "response": {"status_code": response.status, "body": body},
                    }
                )

        answers = await asyncio.gather(*map(one, lines))
    print(time.perf_counter() - begun)
    Path(target).write_text("\n".join(answers) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
