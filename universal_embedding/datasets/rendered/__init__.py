"""Pictures that the project draws itself, for its demo: eight domains in UnED's layout, and the
small gallery of the simulator. numpy and Pillow only.
"""
