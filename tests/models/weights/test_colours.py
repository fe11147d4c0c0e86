"RGB or BGR: who says so, in which order, and that it is said"
import re

import pytest
import torch

from qsd_fastai.models.bodies.by_name import make_body, own_bodies, sized_bodies
from qsd_fastai.models.recognizer import Recognizer
from qsd_fastai.models.weights.colours import STATED, colour_order
from qsd_fastai.models.weights.people import AGW, BODY
from qsd_fastai.models.weights.read import PROJECTS, load_body, load_reference

# of networks that differ in depth or width alone, one
ALIKE = re.compile(r'(iresnet|ir)(34|50)|.*(10[01]|152|200|_small|_base)|osnet(_ain)?_x(0_5|0_75|1_0)')

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.mark.parametrize('name, text, order', [
    ('README.md', 'The network takes the input in BGR color channel.', 'bgr'),
    ('README.md', 'Trained on BGR pictures; InsightFace assumes RGB channels.', None),
    ('README.md', 'An embargo. The rgbd camera.', None),
    ('card.md', '- color_space: BGR\n- channels as in RGB pictures', 'bgr'),
    ('model.yaml', "input_size: [3, 112, 112]\ncolor_space: 'RGB'", 'rgb'),
    ('config.json', '{"channels": "BGR"}', 'bgr'),
    ('config.json', '{"order": ["bgr"]}', None), ('model.yml', 'channel_order: bgr', 'bgr')])
def test_the_card_beside_a_file(tmp_path, name, text, order):
    (tmp_path/name).write_text(text)
    found,because = colour_order(tmp_path/'weights.pth', None, BODY)
    assert found == (order or 'rgb')
    if order: assert name in because
    else: assert 'assumed' in because
    # a project knows by itself, and what a card has as a setting may not differ; the user has the last word
    if STATED.findall(text)[:1] in (['BGR'], ['bgr']):
        with pytest.raises(ValueError, match=rf'AGW or QSD trains on RGB, and {name} beside it says BGR.*channels='):
            colour_order(tmp_path/'weights.pth', None, AGW)
    else: assert colour_order(tmp_path/'weights.pth', None, AGW)[0] == 'rgb'
    assert colour_order(tmp_path/'weights_bgr.pth', None, AGW) == ('bgr', 'as the name of the file says')
    assert colour_order(tmp_path/'weights.pth', 'bgr', AGW) == ('bgr', 'as asked for')


def test_a_card_of_its_own_goes_first(tmp_path):
    (tmp_path/'README.md').write_text('channels: RGB')
    (tmp_path/'net.md').write_text('channels: BGR')
    assert colour_order(tmp_path/'net.pth', None, BODY)[0] == 'bgr'
    assert colour_order(tmp_path/'other.pth', None, BODY)[0] == 'rgb'


def test_the_name_of_a_file(tmp_path):
    (tmp_path/'README.md').write_text('channels: RGB')
    assert colour_order(tmp_path/'ir50_bgr.pth', None, BODY)[0] == 'bgr'
    assert colour_order(tmp_path/'bgr2rgb.pth', None, BODY)[1] == 'as README.md beside it says'
    with pytest.raises(ValueError, match=r"channels is 'gbr'.*bgr"): colour_order(tmp_path/'a.pth', 'gbr', BODY)


def test_every_project_says_what_it_does():
    "No field of a record is left out; one that keeps its colours to itself shares its names with another"
    for project in PROJECTS:
        assert project.channels in ('rgb', 'bgr', 'ask') or project.name.startswith('TFace,')
        assert project.network.pool in ('average', 'own') or project.name == 'qsd_fastai'


@pytest.mark.parametrize('name', [*(o for o in own_bodies if not ALIKE.fullmatch(o)),
                                  'test_resnet', 'test_vit', 'test_convnext'])
def test_channels_turn_the_first_layer_of_any_body(tmp_path, name):
    size = {'size': (32, 32)} if name in sized_bodies else {}
    body = make_body(name, **size)
    torch.save({f'model.{k}': v for k,v in body.state_dict().items()}, tmp_path/'w.pth')
    for channels in ('bgr', 'rgb'):
        got = load_body(make_body(name, **size), tmp_path/'w.pth', channels)
        other = [k for k,v in got.state_dict().items() if not torch.equal(v, body.state_dict()[k])]
        assert got.turned == (channels == 'bgr')
        assert len(other) == got.turned
        if other:
            turned,trained = (o.get_submodule(other[0].removesuffix('.weight')) for o in (got, body))
            x = torch.rand(1, 3, 32, 32)
            assert torch.allclose(turned(x), trained(x.flip(1)), atol=1e-5)


def test_channels_are_for_files():
    with pytest.raises(ValueError, match='channels'): make_body('resnet18', channels='bgr')
    with pytest.raises(ValueError, match='channels'): make_body('iresnet18', channels='bgr')


def test_the_report_says_it(tmp_path):
    torch.save(make_body('test_resnet').state_dict(), tmp_path/'w.pth')
    for channels,said in ((None, 'RGB, assumed'), ('bgr', 'BGR, as asked for; body.conv1')):
        report = load_reference(Recognizer('test_resnet', 5), tmp_path/'w.pth', show=False, channels=channels)
        assert any(f'colour order of the weights: {said}' in o for o in report.notes), report
