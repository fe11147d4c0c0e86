"Of Sphinx: pages are Markdown and notebooks as they were executed, and nothing is loaded from elsewhere"
project = 'qsd_fastai'
extensions = ['myst_nb']
nb_execution_mode = 'off'
nb_ipywidgets_js = {}
nb_merge_streams = True
myst_heading_anchors = 3
html_theme = 'furo'
html_title = 'qsd_fastai'
html_show_sourcelink = html_show_sphinx = html_show_copyright = False
html_copy_source = False
pygments_style,pygments_dark_style = 'friendly','native'
html_theme_options = {'light_css_variables': {'code-font-size': '78%'}}
html_static_path,html_css_files = ['static'],['site.css']
