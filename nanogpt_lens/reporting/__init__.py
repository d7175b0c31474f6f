"""The report: one offline page that proves a conversion and shows what is inside the model.

`making` runs the sections, each of which calls analyses and returns plain blocks (`blocks`); `page` writes them.
The package is not called `report`, because importing a module of that name would hide the function `ngl.report`.
"""
