"""A trained student as a file to deploy: `gps.deploy` runs it with NumPy alone.

`student` writes and checks the file; `program` traces the student to a list of operations, which
`translation` puts into NumPy's words; `agreement` drives two policies side by side.
"""

from gps.export.student import TOLERANCE, ExportError, Format, Written, export

__all__ = ["TOLERANCE", "ExportError", "Format", "Written", "export"]
