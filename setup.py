"""The long description: the README with absolute links, for package indexes. Everything else is in setup.cfg."""

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
PICTURE_OR_LINK = re.compile(r"(?P<picture>!?)(?P<text>\[[^\]]*\])\((?!\w+:|#)(?P<path>[^)\s]+)\)")


def absolute(readme: str, repository: str) -> str:
    """`readme` with its links to files of this repository made absolute."""

    def link(match: re.Match[str]) -> str:
        kind = "raw" if match["picture"] else "blob"
        return f"{match['picture']}{match['text']}({repository}/{kind}/main/{match['path']})"

    return PICTURE_OR_LINK.sub(link, readme)


if __name__ == "__main__":
    config = ConfigParser()
    config.read(HERE / "setup.cfg", encoding="utf-8")
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    setup(long_description=absolute(readme, config["metadata"]["url"]))
