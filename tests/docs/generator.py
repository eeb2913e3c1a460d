"""docs/generate.py as a module: `docs/` is no package."""

import importlib.util

from tests.docs.pages import ROOT

_spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

BLOCKS = _module.BLOCKS
common_fields = _module.common_fields
common_path = _module.common_path
filled = _module.filled
read_fields = _module.read_fields
section_notes = _module.section_notes
stale_pages = _module.stale_pages
