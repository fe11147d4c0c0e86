"Hands the metadata in settings.ini to setuptools; everything else stands in pyproject.toml"
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

config = ConfigParser(delimiters=['='])
config.read(Path(__file__).parent/'settings.ini', encoding='utf-8')
meta = config['DEFAULT']


def lines(key): return [line for line in meta[key].splitlines() if line.strip()]


extras = {name: lines(f'{name}_requirements') for name in ('data', 'export')}
extras['dev'] = sum(extras.values(), lines('dev_requirements'))
extras['docs'] = lines('docs_requirements')
setup(version=meta['version'], description=meta['description'], keywords=meta['keywords'].split(),
      author=meta['author'], license=meta['license'], python_requires='>=' + meta['min_python'],
      install_requires=lines('requirements'), extras_require=extras)
