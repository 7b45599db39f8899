"""Code shared by the tutorials: data, networks, tables and figures. Needs `pip install "keras_norm[tutorials]"`.

Notebooks and experiments import from here what is not their subject, so that they show what is. Nothing else of the
package imports it, and its names may change between releases.
"""

import os

FAST = os.environ.get("FAST") == "1"
"""Whether a notebook makes a smaller run, which tests it and shows nothing."""
